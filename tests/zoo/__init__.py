"""The zoo: every architecture of timm and torchvision, with random weights, through ``fxrep.reparameterize``."""
