"""The catalogue of published block designs: who published it, what it computes, and what is left when it is merged.

``python -m tests.blocks.catalogue > docs/catalogue.md`` writes the page that is made from it, and
``tests/test_catalogue.py`` merges every design and counts.
"""

from __future__ import annotations

from tests.blocks import (
    attention,
    branches,
    computed,
    detectors,
    heads,
    large_kernel,
    mobile,
    repvgg,
    sources,
    tutorials,
)
from tests.blocks import super_resolution as sr
from tests.blocks.design import NO_MERGE, TOKENS, Design, left

RANK = "Which axis a one-dimensional norm works on depends on the rank of its input: pass `example_inputs`."
KEPT_NORM = "YOLOv6's copy of the block keeps the norm behind the sum, for quantization; fxrep folds it in."
GATE = "Squeeze-and-excitation has two convolutions of its own, and a pool and a gate that depend on the input."
BORDER = "The border is filled by slice writes with what the first convolution and its norm make of zeros."
FAMILIES: dict[str, list[Design]] = {
    "RepVGG": [
        Design(
            "RepVGG", sources.REPVGG, "bn(conv3 x) + bn(conv1 x) + bn x",
            lambda: tutorials.OriginalRepVGGBlock(8, 8), left(conv=1)),
        Design(
            "RepVGG, stride 2", sources.REPVGG, "bn(conv3 x) + bn(conv1 x) + 0",
            lambda: tutorials.OriginalRepVGGBlock(8, 16, stride=2), left(conv=1),
            "The branch that is not there is the integer 0."),
        Design(
            "RepVGG-D2se", sources.REPVGG, "relu(se(bn(conv3 x) + bn(conv1 x) + bn x))",
            lambda: repvgg.RepVGGBlockSE(8), left(conv=3, mul=1, pool=1), GATE),
        Design(
            "RepVGGplus", sources.REPVGG, "se(relu(bn(conv3 x) + bn(conv1 x) + bn x))",
            lambda: repvgg.RepVGGplusBlock(8), left(conv=3, mul=1, pool=1), GATE),
        Design(
            "QARepVGG", sources.QAREPVGG, "bn(bn(conv3 x) + conv1 x + x)",
            lambda: repvgg.QARepVGGBlock(8, 8), left(conv=1),
            KEPT_NORM),
        Design(
            "QARepVGG with SE", sources.QAREPVGG, "bn(se(bn(conv3 x) + conv1 x + x))",
            lambda: repvgg.QARepVGGBlock(8, 8, se=True), left(conv=3, norm=1, mul=1, pool=1),
            "Between the sum and the norm the gate depends on the input: the norm has no convolution to go into."),
        Design(
            "QARepVGG V2", sources.QAREPVGG, "bn(bn(conv3 x) + conv1 x + x + avg3 x)",
            lambda: repvgg.QARepVGGBlockV2(8, 8), left(conv=1),
            "With an average pool, as in YOLOv6's repository. " + KEPT_NORM),
    ],
    "Branches of different shape and depth": [
        Design(
            "ACNet", sources.ACNET, "bn(conv3x3 x) + bn(conv3x1 x) + bn(conv1x3 x)",
            lambda: branches.ACBlock(8, 16), left(conv=1)),
        Design(
            "ACNet, 5x5 with padding 4", sources.ACNET, "bn(conv5x5 x) + bn(conv5x1 x) + bn(conv1x5 x)",
            lambda: branches.ACBlock(8, 16, 5, 4), left(conv=1)),
        Design(
            "ACNet, 5x5 with padding 1", sources.ACNET,
            "bn(conv5x5 x) + bn(conv5x1 x[..., 1:-1]) + bn(conv1x5 x[1:-1, :])",
            lambda: branches.ACBlock(8, 16, 5, 1), left(conv=1)),
        Design(
            "Diverse Branch Block", sources.DBB,
            "bn(conv3 x) + bn(conv1 x) + bn(avg3(pad(bn(conv1 x)))) + bn(conv3(pad(bn((1 + conv1) x))))",
            lambda: branches.DiverseBranchBlock(8, 8),
            left(conv=1), BORDER),
        Design(
            "Diverse Branch Block, stride 2", sources.DBB,
            "bn(conv3 x) + bn(conv1 x) + bn(avg3(pad(bn(conv1 x)))) + bn(conv3(pad(bn((1 + conv1) x))))",
            lambda: branches.DiverseBranchBlock(8, 16, stride=2),
            left(conv=1), BORDER),
        Design(
            "Diverse Branch Block, depthwise", sources.DBB, "bn(dw3 x) + bn(avg3 x) + bn(conv3(pad(bn(conv1 x))))",
            lambda: branches.DiverseBranchBlock(8, 8, groups=8), left(conv=1), BORDER),
        Design(
            "Diverse Branch Block, 1x1", sources.DBB,
            "bn(conv1 x) + bn(conv1 x) + bn(avg1(bn(conv1 x))) + bn(conv1(bn((1 + conv1) x)))",
            lambda: branches.DiverseBranchBlock(8, 16, 1), left(conv=1)),
    ],
    "Large kernels": [
        Design(
            "RepLKNet, large kernel", sources.REPLKNET, "bn(dw13 x) + bn(dw5 x)",
            lambda: large_kernel.ReparamLargeKernelConv(8), left(conv=1)),
        Design(
            "RepLKNet, block", sources.REPLKNET, "x + bn(pw(relu(bn(dw13 h) + bn(dw5 h)))), h = relu(bn(pw(bn x)))",
            lambda: large_kernel.RepLKBlock(8), left(conv=3, add=1),
            "The authors merge the kernels and leave the norms to others.", left(conv=3, norm=3, add=1)),
        Design(
            "UniRepLKNet, dilated kernels", sources.UNIREPLKNET, "bn(dw13 x) + sum of bn(dw_k,r x), r = 1 ... 5",
            lambda: large_kernel.DilatedReparamBlock(8), left(conv=1)),
        Design(
            "UniRepLKNet, block", sources.UNIREPLKNET, "x + g bn(linear(grn(gelu(linear(se(bn(dilated x)))))))",
            lambda: large_kernel.UniRepLKNetBlock(8), left(conv=3, linear=2, add=2, mul=5),
            "Not reached: the layer scale is in a method that can be called beside forward, and would scale twice; and "
            "the shift of global response normalization, before the linear layer, is added to what has no known rank.",
            left(conv=3, linear=2, add=1, mul=4)),
    ],
    "Mobile networks": [
        Design(
            "MobileOne, dense", sources.MOBILEONE, "bn x + bn(conv1 x) + sum of 4 bn(conv3 x)",
            lambda: mobile.MobileOneBlock(8, 8, branches=4), left(conv=1)),
        Design(
            "MobileOne, depthwise", sources.MOBILEONE, "bn x + bn(dw1 x) + sum of 4 bn(dw3 x)",
            lambda: mobile.MobileOneBlock(8, 8, groups=8, branches=4), left(conv=1)),
        Design(
            "MobileOne, pointwise with SE", sources.MOBILEONE, "se(0 + 0 + sum of 4 bn(pw x))",
            lambda: mobile.MobileOneBlock(8, 16, 1, branches=4, se=True), left(conv=3, mul=1, pool=1), GATE),
        Design(
            "FastViT, RepMixer", sources.FASTVIT, "x + g (bn x + bn(dw1 x) + bn(dw3 x) - bn x)",
            lambda: mobile.RepMixer(8), left(conv=1)),
        Design(
            "FastViT, stem", sources.FASTVIT, "three MobileOne blocks: dense, depthwise, pointwise",
            lambda: mobile.fastvit_stem(3, 16), left(conv=3), shapes=((2, 3, 16, 16),)),
        Design(
            "FastViT, position encoding", sources.FASTVIT, "dw7 x + x",
            lambda: mobile.RepCPE(8), left(conv=1)),
        Design(
            "RepViT, first generation", sources.REPVIT, "bn(dw3 x) + bn(dw1 x) + x",
            lambda: mobile.RepVGGDW(8, legacy=True), left(conv=1)),
        Design(
            "RepViT", sources.REPVIT, "bn(bn(dw3 x) + dw1 x + x)",
            lambda: mobile.RepVGGDW(8, legacy=False), left(conv=1)),
        Design(
            "RepViT, block", sources.REPVIT, "y + bn(pw(gelu(bn(pw y)))), y = se(bn(bn(dw3 x) + dw1 x + x))",
            lambda: mobile.RepViTBlock(8, legacy=False), left(conv=5, add=1, mul=1, pool=1), GATE),
        Design(
            "RepGhost", sources.REPGHOST, "bn(dw3 h) + bn h, h = relu(bn(pw x))",
            lambda: mobile.RepGhostModule(8, 16), left(conv=2)),
        Design(
            "GhostNetV3", sources.GHOSTNETV3,
            "cat(h, relu(bn h + bn(dw1 h) + sum of 3 bn(dw3 h))), h = relu(sum of 3 bn(pw x))",
            lambda: mobile.GhostModuleV3(8, 16), left(conv=2)),
        Design(
            "GhostNetV3, gated", sources.GHOSTNETV3, "ghost(x) sigmoid(bn(dw5x1(bn(dw1x5(bn(pw(avg2 x)))))))",
            lambda: mobile.GhostModuleV3(8, 16, gated=True), left(conv=5, mul=1, pool=1),
            "The authors merge the branches and leave the three norms of the gate. Its two strips stay two: as one "
            "5x5 they would cost more.", left(conv=5, norm=3, mul=1, pool=1), shapes=((2, 8, 10, 10),)),
        Design(
            "PP-LCNetV2", sources.LCNETV2, "x + relu(bn(pw(relu(bn(pw(relu(bn(dw5 x) + bn(dw3 x) + bn(dw1 x))))))))",
            lambda: mobile.RepDepthwiseSeparable(8), left(conv=3, add=1)),
        Design(
            "SHViT", sources.SHVIT, "x + bn(dw3 x)",
            lambda: mobile.residual_depthwise(8), left(conv=1)),
        Design(
            "iFormer", sources.IFORMER, "x + bn(dw7 x)",
            lambda: mobile.residual_depthwise(8, 7), left(conv=1)),
        Design(
            "EfficientViM", sources.EFFICIENTVIM, "(1 - a) x + a bn(dw3 x), a = sigmoid(parameter)",
            lambda: mobile.GatedDepthwise(8), left(conv=1),
            authors=NO_MERGE),
    ],
    "Vision transformers": [
        Design(
            "CoaT, position encoding", sources.COAT, "cat(token, dw3 x + x)",
            lambda: attention.CoaTPosEnc(8, (3, 4)), left(conv=1),
            "The class token goes around the convolution.", NO_MERGE,
            shapes=((2, 13, 8),)),
        Design(
            "CoaT, several tokens", sources.COAT, "cat(tokens, dw3 x + x)",
            lambda: attention.CoaTPosEnc(8, (3, 4), tokens=5), left(conv=1),
            "Registers go the way of the class token.", NO_MERGE, shapes=((2, 17, 8),)),
        Design(
            "DaViT, position encoding", sources.DAVIT, "x + dw3 x",
            lambda: attention.DaViTPosEnc(8), left(conv=1), authors=NO_MERGE),
        Design(
            "DaViT, with activation", sources.DAVIT, "x + gelu(dw3 x)",
            lambda: attention.DaViTPosEnc(8, act=True), left(conv=1, add=1),
            "Cannot be one convolution: the activation is between the convolution and the sum.", NO_MERGE),
        Design(
            "Twins, position encoding", sources.TWINS, "dw3 x += x",
            lambda: attention.TwinsPosConv(8, (3, 4)), left(conv=1),
            "The image is a view of the tokens, and the sum is in place.", NO_MERGE, shapes=((2, 12, 8),)),
        Design(
            "EfficientFormerV2, query", sources.EFFICIENTFORMERV2, "bn(pw(dw3 x + avg1 x)), stride 2",
            lambda: attention.LocalGlobalQuery(8, 16), left(conv=2),
            "The depthwise and the pointwise convolution stay two: as a dense 3x3 they would cost more.", NO_MERGE),
        Design(
            "EfficientFormer, pooling", sources.EFFICIENTFORMER, "x + g (avg3 x - x)",
            lambda: attention.PoolingMixer(8), left(add=2, mul=1, pool=1),
            "Cannot be one convolution: at the border the pool divides by how much of the window is inside.", NO_MERGE),
    ],
    "Detectors": [
        Design(
            "YOLOv6, linear add", sources.REPOPT, "bn(s3 conv3 x + s1 conv1 x + s0 x)",
            lambda: detectors.LinearAddBlock(8, 8), left(conv=1)),
        Design(
            "YOLOv6, linear add, stride 2", sources.REPOPT, "bn(s3 conv3 x + s1 conv1 x)",
            lambda: detectors.LinearAddBlock(8, 16, 2), left(conv=1)),
        Design(
            "YOLOv6, BottleRep", sources.YOLOV6, "repvgg(repvgg(x)) + a x",
            lambda: detectors.BottleRep(8), left(conv=2, add=1, mul=1),
            "The residual is around activations: its sum and its factor stay."),
        Design(
            "YOLOv7, RepConv", sources.YOLOV7, "silu(bn(conv3 x) + bn(conv1 x) + bn x)",
            lambda: detectors.RepConv(8, 8), left(conv=1)),
        Design(
            "YOLOv7, RepConvN", sources.YOLOV7, "silu(bn(conv3 x) + bn(conv1 x) + 0)",
            lambda: detectors.RepConv(8, 8, identity=False), left(conv=1)),
        Design(
            "YOLOv7, implicit knowledge", sources.YOLOV7, "m conv1(a + x)",
            lambda: detectors.ImplicitHead(8, 16), left(conv=1, add=1),
            "Not reached on its own: the rank of the input is not taken from the convolution that reads it. With "
            "`example_inputs` one convolution is left.", left(conv=1)),
        Design(
            "YOLOv9, RepConvN", sources.YOLOV9, "silu(bn(conv3 x) + bn(conv1 x) + 0)",
            lambda: detectors.RepConvN(8, 8), left(conv=1)),
        Design(
            "YOLOv9, RepNBottleneck", sources.YOLOV9, "x + silu(bn(conv3(rep x)))",
            lambda: detectors.RepNBottleneck(8), left(conv=2, add=1), "The residual is around activations."),
        Design(
            "YOLOv10, RepVGGDW", sources.YOLOV10, "silu(bn(dw7 x) + bn(dw3 x))",
            lambda: detectors.RepVGGDW(8), left(conv=1)),
        Design(
            "PP-YOLOE, with alpha", sources.PPYOLOE, "silu(bn(conv3 x) + a bn(conv1 x))",
            lambda: detectors.AlphaRepVggBlock(8, 8), left(conv=1), "Alpha is a parameter of shape (1,)."),
        Design(
            "PP-YOLOE, with alpha asked for its truth", sources.PPYOLOE, "silu(bn(conv3 x) + (a or 1) bn(conv1 x))",
            lambda: detectors.AskedAlphaRepVggBlock(8, 8), left(conv=1)),
        Design(
            "PP-YOLOE, without alpha", sources.PPYOLOE, "silu(bn(conv3 x) + bn(conv1 x))",
            lambda: detectors.AlphaRepVggBlock(8, 8, alpha=False), left(conv=1)),
        Design(
            "RT-DETR, RepVggBlock", sources.RTDETR, "silu(bn(conv3 x) + bn(conv1 x))",
            lambda: detectors.RepVggBlock(8), left(conv=1)),
        Design(
            "RT-DETR, CSPRepLayer", sources.RTDETR, "rep(rep(silu(bn(pw x)))) + silu(bn(pw x))",
            lambda: detectors.CSPRepLayer(16, 8), left(conv=4, add=1),
            "The authors leave the norms of the pointwise convolutions to others.", left(conv=4, norm=2, add=1),
            shapes=((2, 16, 9, 9),)),
        Design(
            "DAMO-YOLO, RepConv", sources.DAMOYOLO, "swish(bn(conv3 x) + bn(conv1 x) + 0)",
            lambda: detectors.DamoRepConv(8, 8), left(conv=1, mul=1), "The activation is a multiplication in place."),
        Design(
            "DAMO-YOLO, block", sources.DAMOYOLO, "x + swish(bn(conv3(rep x)))",
            lambda: detectors.DamoBasicBlock(8, 16), left(conv=2, add=1, mul=2),
            "The residual is around activations, which are multiplications."),
        Design(
            "docTR FAST, 3x3", sources.FAST, "bn(conv3x3 x) + bn(conv3x1 x) + bn(conv1x3 x) + bn x",
            lambda: detectors.FASTConvLayer(8, 8), left(conv=1)),
        Design(
            "docTR FAST, 3x1", sources.FAST, "bn(conv3x1 x) + 0 + bn(conv1x1 x) + 0",
            lambda: detectors.FASTConvLayer(8, 8, (3, 1)), left(conv=1)),
        Design(
            "docTR FAST, 1x3", sources.FAST, "bn(conv1x3 x) + bn(conv1x1 x) + 0 + bn x",
            lambda: detectors.FASTConvLayer(8, 8, (1, 3)), left(conv=1)),
    ],
    "Super-resolution": [
        Design(
            "ECBSR", sources.ECBSR, "conv3 x + conv3(pad(conv1 x)) + sobel_x, sobel_y and laplace of pad(conv1 x) + x",
            lambda: sr.ECB(8), left(conv=1), BORDER),
        Design(
            "ECBSR, merged in forward", sources.ECBSR, "conv(x, W), W = the sum of the kernels",
            lambda: sr.EvaluatedECB(8), left(conv=9, add=13, mul=7, write=32),
            "Not reached: the kernels are computed from parameters alone, but with writes into new tensors, and with a "
            "condition on a parameter's device, which ends the trace.", left(conv=1)),
        Design(
            "PlainUSR", sources.PLAINUSR, "conv1(g conv3(pad h) + h) + x, h = conv1 x, g = se(parameter)",
            lambda: sr.RepMBConv(8), left(conv=1), BORDER),
        Design(
            "SPAN, Conv3XC", sources.SPAN, "conv1(conv3(conv1(pad x))) + conv1 x",
            lambda: sr.Conv3XC(8, 8), left(conv=1)),
        Design(
            "SPAN, merged in forward", sources.SPAN, "conv(x, W), W written into a module in each forward",
            lambda: sr.EvaluatedConv3XC(8, 8), left(conv=1, add=4, mul=2, pad=1),
            "Not reached: forward assigns to `.data` of a parameter, which ends the trace; it is run as it is.",
            left(conv=1)),
        Design(
            "SESR, expanded", sources.SESR, "conv1(conv3 x) + x, through many channels",
            lambda: sr.CollapsibleLinearBlock(8, 8), left(conv=1)),
        Design(
            "SESR, first block", sources.SESR, "conv1(conv5 x), through many channels",
            lambda: sr.CollapsibleLinearBlock(1, 8, 5), left(conv=1), shapes=((2, 1, 9, 9),)),
        Design(
            "SESR, collapsed in forward", sources.SESR, "conv(x, flip(conv1(conv3(impulse))) + 1)",
            lambda: sr.CollapsedLinearBlock(8), left(conv=1),
            "The merged weights are computed once, instead of in each call."),
    ],
    "Computed weights": [
        Design(
            "OREPA", sources.OREPA, "bn(conv(x, W)), W = the sum of six kernels, each times a vector",
            lambda: computed.OREPA(8, 8), left(conv=1)),
        Design(
            "OREPA, large kernel", sources.OREPA, "bn(conv(x, W)), W = conv(conv(W1, W2), W3)",
            lambda: computed.OREPALargeConv(8, 8), left(conv=1)),
        Design(
            "NFNet", sources.NFNET, "conv(x, standardised W)",
            lambda: computed.ScaledStdConv2d(8, 8), left(conv=1),
            "The standardised weights are computed once, instead of in each call.", NO_MERGE),
        Design(
            "VanillaNet", sources.VANILLANET, "bn(dw7(relu(pool(bn(conv1(leaky(bn(conv1 x))))))))",
            lambda: computed.VanillaBlock(8, 16), left(conv=2),
            "At the end of training the slope of the leaky ReLU is 1."),
    ],
    "Linear layers": [
        Design(
            "RepViT, distilled classifier", sources.REPVIT, "(linear(bn x) + linear(bn x)) / 2 behind the global pool",
            lambda: heads.DistilledClassifier(8, 5), left(linear=1)),
        Design(
            "LeViT, distilled classifier", sources.LEVIT,
            "(linear(bn x) + linear(bn x)) / 2 behind the mean of the tokens",
            lambda: heads.LevitHead(8, 5), left(linear=1),
            "The authors fold the norms and leave two heads. " + RANK, left(linear=2, add=1, mul=1),
            shapes=(TOKENS,), example=True),
        Design(
            "DeiT, distilled classifier", sources.DEIT, "(linear x_0 + linear x_1) / 2",
            lambda: heads.DistilledTokens(8, 5), left(linear=2, add=1),
            "Cannot be one linear layer of one input: the two read different tokens. The factor goes into the weights.",
            NO_MERGE, shapes=(TOKENS,)),
        Design(
            "EfficientViM, distilled heads", sources.EFFICIENTVIM,
            "(0 + sum of w_i linear x_i + 0 + sum of v_i linear x_i) / 2",
            lambda: heads.WeightedHeads((8, 8, 12), 5), left(linear=3, add=4, mul=2),
            "The heads of one stage become one. The zeros that the two sums start from, with a size taken from the "
            "input, stay; with torch 2.5 making them ends the trace, and nothing is merged.", NO_MERGE,
            shapes=((2, 8, 9, 9), (2, 8, 5, 5), (2, 12, 3, 3)), since="2.15"),
        Design(
            "LeViT, norm of tokens", sources.LEVIT, "unflatten(bn(flatten(linear x)))",
            lambda: heads.LinearNorm(8, 12), left(linear=1), shapes=(TOKENS,), example=True),
        Design(
            "LoRA, linear layers", sources.LORA, "W x + b + s B(A x)",
            lambda: heads.LoRAModules(8, 16), left(linear=1), shapes=(TOKENS,)),
        Design(
            "LoRA, matrix products", sources.LORA, "x W' + b + s (x A') B'",
            lambda: heads.LoRALinear(8, 16), left(linear=1), shapes=(TOKENS,)),
        Design(
            "LoRA, convolution", sources.LORA, "conv(x, W + s B A)",
            lambda: heads.LoRAConv(8, 8), left(conv=1)),
    ],
}  # fmt: skip

DESIGNS = {design.name: design for family in FAMILIES.values() for design in family}

if __name__ == "__main__":
    from tests.blocks.page import page

    print(page(FAMILIES), end="")
