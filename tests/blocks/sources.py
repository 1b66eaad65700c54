"""Who published what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A paper, and the repository that its designs are written after."""

    authors: str
    title: str
    venue: str
    paper: str
    code: str


ARXIV = "https://arxiv.org/abs/"
GITHUB = "https://github.com/"

REPVGG = Source(
    "X. Ding, X. Zhang, N. Ma, J. Han, G. Ding, J. Sun",
    "RepVGG: Making VGG-style ConvNets Great Again",
    "CVPR 2021", ARXIV + "2101.03697", GITHUB + "DingXiaoH/RepVGG",
)  # fmt: skip
QAREPVGG = Source(
    "X. Chu, L. Li, B. Zhang",
    "Make RepVGG Greater Again: A Quantization-aware Approach",
    "AAAI 2024", ARXIV + "2212.01593", GITHUB + "cxxgtxy/QARepVGG",
)  # fmt: skip
ACNET = Source(
    "X. Ding, Y. Guo, G. Ding, J. Han",
    "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks",
    "ICCV 2019", ARXIV + "1908.03930", GITHUB + "DingXiaoH/ACNet",
)  # fmt: skip
DBB = Source(
    "X. Ding, X. Zhang, J. Han, G. Ding",
    "Diverse Branch Block: Building a Convolution as an Inception-like Unit",
    "CVPR 2021", ARXIV + "2103.13425", GITHUB + "DingXiaoH/DiverseBranchBlock",
)  # fmt: skip
REPLKNET = Source(
    "X. Ding, X. Zhang, J. Han, G. Ding",
    "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs",
    "CVPR 2022", ARXIV + "2203.06717", GITHUB + "DingXiaoH/RepLKNet-pytorch",
)  # fmt: skip
UNIREPLKNET = Source(
    "X. Ding, Y. Zhang, Y. Ge, S. Zhao, L. Song, X. Yue, Y. Shan",
    "UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud, Time-Series and Image "
    "Recognition",
    "CVPR 2024", ARXIV + "2311.15599", GITHUB + "AILab-CVC/UniRepLKNet",
)  # fmt: skip
MOBILEONE = Source(
    "P. K. A. Vasu, J. Gabriel, J. Zhu, O. Tuzel, A. Ranjan",
    "MobileOne: An Improved One millisecond Mobile Backbone",
    "CVPR 2023", ARXIV + "2206.04040", GITHUB + "apple/ml-mobileone",
)  # fmt: skip
FASTVIT = Source(
    "P. K. A. Vasu, J. Gabriel, J. Zhu, O. Tuzel, A. Ranjan",
    "FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization",
    "ICCV 2023", ARXIV + "2303.14189", GITHUB + "apple/ml-fastvit",
)  # fmt: skip
REPVIT = Source(
    "A. Wang, H. Chen, Z. Lin, J. Han, G. Ding",
    "RepViT: Revisiting Mobile CNN From ViT Perspective",
    "CVPR 2024", ARXIV + "2307.09283", GITHUB + "THU-MIG/RepViT",
)  # fmt: skip
REPGHOST = Source(
    "C. Chen, Z. Guo, H. Zeng, P. Xiong, J. Dong",
    "RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization",
    "arXiv 2022", ARXIV + "2211.06088", GITHUB + "ChengpengChen/RepGhost",
)  # fmt: skip
GHOSTNETV3 = Source(
    "Z. Liu, Z. Hao, K. Han, Y. Tang, Y. Wang",
    "GhostNetV3: Exploring the Training Strategies for Compact Models",
    "arXiv 2024", ARXIV + "2404.11202", GITHUB + "huawei-noah/Efficient-AI-Backbones",
)  # fmt: skip
LCNETV2 = Source(
    "the PaddlePaddle authors",
    "PP-LCNetV2",
    "PaddleClas 2022", GITHUB + "PaddlePaddle/PaddleClas", GITHUB + "PaddlePaddle/PaddleClas",
)  # fmt: skip
SHVIT = Source(
    "S. Yun, Y. Ro",
    "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design",
    "CVPR 2024", ARXIV + "2401.16456", GITHUB + "ysj9909/SHViT",
)  # fmt: skip
IFORMER = Source(
    "C. Zheng",
    "iFormer: Integrating ConvNet and Transformer for Mobile Application",
    "ICLR 2025", ARXIV + "2501.15369", GITHUB + "ChuanyangZheng/iFormer",
)  # fmt: skip
EFFICIENTVIM = Source(
    "S. Lee, J. Choi, H. J. Kim",
    "EfficientViM: Efficient Vision Mamba with Hidden State Mixer based State Space Duality",
    "CVPR 2025", ARXIV + "2411.15241", GITHUB + "mlvlab/EfficientViM",
)  # fmt: skip
COAT = Source(
    "W. Xu, Y. Xu, T. Chang, Z. Tu",
    "Co-Scale Conv-Attentional Image Transformers",
    "ICCV 2021", ARXIV + "2104.06399", GITHUB + "mlpc-ucsd/CoaT",
)  # fmt: skip
DAVIT = Source(
    "M. Ding, B. Xiao, N. Codella, P. Luo, J. Wang, L. Yuan",
    "DaViT: Dual Attention Vision Transformers",
    "ECCV 2022", ARXIV + "2204.03645", GITHUB + "dingmyu/davit",
)  # fmt: skip
TWINS = Source(
    "X. Chu, Z. Tian, Y. Wang, B. Zhang, H. Ren, X. Wei, H. Xia, C. Shen",
    "Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
    "NeurIPS 2021", ARXIV + "2104.13840", GITHUB + "Meituan-AutoML/Twins",
)  # fmt: skip
EFFICIENTFORMER = Source(
    "Y. Li, G. Yuan, Y. Wen, J. Hu, G. Evangelidis, S. Tulyakov, Y. Wang, J. Ren",
    "EfficientFormer: Vision Transformers at MobileNet Speed",
    "NeurIPS 2022", ARXIV + "2206.01191", GITHUB + "snap-research/EfficientFormer",
)  # fmt: skip
EFFICIENTFORMERV2 = Source(
    "Y. Li, J. Hu, Y. Wen, G. Evangelidis, K. Salahi, Y. Wang, S. Tulyakov, J. Ren",
    "Rethinking Vision Transformers for MobileNet Size and Speed",
    "ICCV 2023", ARXIV + "2212.08059", GITHUB + "snap-research/EfficientFormer",
)  # fmt: skip
REPOPT = Source(
    "X. Ding, H. Chen, X. Zhang, K. Huang, J. Han, G. Ding",
    "Re-parameterizing Your Optimizers rather than Architectures",
    "ICLR 2023", ARXIV + "2205.15242", GITHUB + "meituan/YOLOv6",
)  # fmt: skip
YOLOV6 = Source(
    "C. Li, L. Li, H. Jiang et al.",
    "YOLOv6: A Single-Stage Object Detection Framework for Industrial Applications",
    "arXiv 2022", ARXIV + "2209.02976", GITHUB + "meituan/YOLOv6",
)  # fmt: skip
YOLOV7 = Source(
    "C.-Y. Wang, A. Bochkovskiy, H.-Y. M. Liao",
    "YOLOv7: Trainable bag-of-freebies sets new state-of-the-art for real-time object detectors",
    "CVPR 2023", ARXIV + "2207.02696", GITHUB + "WongKinYiu/yolov7",
)  # fmt: skip
YOLOV9 = Source(
    "C.-Y. Wang, I-H. Yeh, H.-Y. M. Liao",
    "YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information",
    "ECCV 2024", ARXIV + "2402.13616", GITHUB + "WongKinYiu/yolov9",
)  # fmt: skip
YOLOV10 = Source(
    "A. Wang, H. Chen, L. Liu, K. Chen, Z. Lin, J. Han, G. Ding",
    "YOLOv10: Real-Time End-to-End Object Detection",
    "NeurIPS 2024", ARXIV + "2405.14458", GITHUB + "THU-MIG/yolov10",
)  # fmt: skip
PPYOLOE = Source(
    "S. Xu, X. Wang, W. Lv et al.",
    "PP-YOLOE: An evolved version of YOLO",
    "arXiv 2022", ARXIV + "2203.16250", GITHUB + "PaddlePaddle/PaddleDetection",
)  # fmt: skip
RTDETR = Source(
    "Y. Zhao, W. Lv, S. Xu, J. Wei, G. Wang, Q. Dang, Y. Liu, J. Chen",
    "DETRs Beat YOLOs on Real-time Object Detection",
    "CVPR 2024", ARXIV + "2304.08069", GITHUB + "lyuwenyu/RT-DETR",
)  # fmt: skip
DAMOYOLO = Source(
    "X. Xu, Y. Jiang, W. Chen, Y. Huang, Y. Zhang, X. Sun",
    "DAMO-YOLO: A Report on Real-Time Object Detection Design",
    "arXiv 2022", ARXIV + "2211.15444", GITHUB + "tinyvision/DAMO-YOLO",
)  # fmt: skip
FAST = Source(
    "Z. Chen, J. Wang, W. Wang, G. Chen, E. Xie, P. Luo, T. Lu",
    "FAST: Faster Arbitrarily-Shaped Text Detector with Minimalist Kernel Representation",
    "arXiv 2021", ARXIV + "2111.02394", GITHUB + "mindee/doctr",
)  # fmt: skip
ECBSR = Source(
    "X. Zhang, H. Zeng, L. Zhang",
    "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices",
    "ACM Multimedia 2021", "https://doi.org/10.1145/3474085.3475291", GITHUB + "xindongzhang/ECBSR",
)  # fmt: skip
PLAINUSR = Source(
    "Y. Wang, Y. Li, G. Wang, X. Liu",
    "PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution",
    "ACCV 2024", ARXIV + "2409.13435", GITHUB + "icandle/PlainUSR",
)  # fmt: skip
SPAN = Source(
    "C. Wan, H. Yu, Z. Li, Y. Chen, Y. Zou, Y. Liu, X. Yin, K. Zuo",
    "Swift Parameter-free Attention Network for Efficient Super-Resolution",
    "CVPR Workshops 2024", ARXIV + "2311.12770", GITHUB + "hongyuanyu/SPAN",
)  # fmt: skip
SESR = Source(
    "K. Bhardwaj, M. Milosavljevic, L. O'Neil, D. Gope, R. Matas, A. Chalfin, N. Suda, L. Meng, D. Loh",
    "Collapsible Linear Blocks for Super-Efficient Super Resolution",
    "MLSys 2022", ARXIV + "2103.09404", GITHUB + "ARM-software/sesr",
)  # fmt: skip
OREPA = Source(
    "M. Hu, J. Feng, J. Hua, B. Lai, J. Huang, X. Gong, X.-S. Hua",
    "Online Convolutional Re-parameterization",
    "CVPR 2022", ARXIV + "2204.00826", GITHUB + "JUGGHM/OREPA_CVPR2022",
)  # fmt: skip
VANILLANET = Source(
    "H. Chen, Y. Wang, J. Guo, D. Tao",
    "VanillaNet: the Power of Minimalism in Deep Learning",
    "NeurIPS 2023", ARXIV + "2305.12972", GITHUB + "huawei-noah/VanillaNet",
)  # fmt: skip
NFNET = Source(
    "A. Brock, S. De, S. L. Smith, K. Simonyan",
    "High-Performance Large-Scale Image Recognition Without Normalization",
    "ICML 2021", ARXIV + "2102.06171", GITHUB + "google-deepmind/deepmind-research",
)  # fmt: skip
LEVIT = Source(
    "B. Graham, A. El-Nouby, H. Touvron, P. Stock, A. Joulin, H. Jégou, M. Douze",
    "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference",
    "ICCV 2021", ARXIV + "2104.01136", GITHUB + "facebookresearch/LeViT",
)  # fmt: skip
DEIT = Source(
    "H. Touvron, M. Cord, M. Douze, F. Massa, A. Sablayrolles, H. Jégou",
    "Training data-efficient image transformers & distillation through attention",
    "ICML 2021", ARXIV + "2012.12877", GITHUB + "facebookresearch/deit",
)  # fmt: skip
LORA = Source(
    "E. J. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang, W. Chen",
    "LoRA: Low-Rank Adaptation of Large Language Models",
    "ICLR 2022", ARXIV + "2106.09685", GITHUB + "microsoft/LoRA",
)  # fmt: skip
