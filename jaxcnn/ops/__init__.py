"""Operations on channels-last arrays, each lowered the fastest way that was measured for the platform."""

from jaxcnn.ops import boxes
from jaxcnn.ops.conv import conv, conv_transpose, depthwise_conv
from jaxcnn.ops.ctc import Decoded, ctc_beam, ctc_greedy
from jaxcnn.ops.native import native_lowering, top_k, whole_operations, without_top_k
from jaxcnn.ops.pooled import conv_max_pool
from jaxcnn.ops.pooling import adaptive_avg_pool, avg_pool, first_max, global_avg_pool, global_max_pool, max_pool
from jaxcnn.ops.resize import resize_linear
from jaxcnn.ops.roi_align import roi_align
from jaxcnn.ops.spectrogram import frame_count, log_mel, mel_filters, spectrogram, stft

__all__ = [
    "adaptive_avg_pool", "avg_pool", "boxes", "conv", "conv_max_pool", "conv_transpose", "ctc_beam", "ctc_greedy",
    "Decoded", "depthwise_conv", "first_max", "frame_count", "global_avg_pool", "global_max_pool", "log_mel",
    "max_pool", "mel_filters", "native_lowering", "resize_linear", "roi_align", "spectrogram", "stft",
    "top_k", "whole_operations", "without_top_k",
]  # fmt: skip
