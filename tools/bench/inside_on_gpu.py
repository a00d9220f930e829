"""TensorRT-RTX's element-wise arithmetic beside PyTorch's, on a GPU, over all values of fp16 and bf16.

    python3 tools/bench/inside_on_gpu.py    # needs an NVIDIA GPU, nvcc, and PyTorch with CUDA; no TensorRT

The CUDA functions below are those that TensorRT-RTX 1.7.1.116 writes into its plans (`tools/bench/inside.py` prints their names),
composed as its generated kernels compose them. For each operator it prints in how many of all finite values three things
differ, and by how many numbers of the type at most:

- reduced: TensorRT's arithmetic in the type itself, against PyTorch's kernel;
- casts: TensorRT's fp32 arithmetic with a Cast on each side (`fidelity="pytorch"`), against PyTorch's kernel;
- torch: PyTorch's kernel, against PyTorch in fp32, rounded once.

The table in `passes/match_pytorch.py` follows from the first column, and the last one shows that PyTorch is what it says.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional

SOURCE = r"""
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using bf16 = __nv_bfloat16;
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ T to(float x);
template <> __device__ __half to(float x) { return __float2half(x); }
template <> __device__ bf16 to(float x) { return __float2bfloat16(x); }
__device__ __half over(__half x, __half y) { return __hdiv(x, y); }
__device__ bf16 over(bf16 x, bf16 y) {
    const float x_f = (float)x; float y_f = (float)y;
    bool y_big = fabsf(y_f) >= 8.5070591730234615865843651857942052864e37f;
    if (y_big) y_f *= 0.25f;
    float ans; asm("{ div.approx.f32 %0, %1, %2; }" : "=f"(ans) : "f"(x_f), "f"(y_f));
    if (y_big) ans = __fmaf_ieee_rn(ans, 0.25f, -0.0f);
    return __float2bfloat16(ans);
}
template <class T> __device__ T less(T x, T y) { return __hlt(x, y) ? x : y; }
template <class T> __device__ T more(T x, T y) { return __hgt(x, y) ? x : y; }
template <class T> __device__ T softplus(T x) { T e = hexp(x); return __hisinf(e) ? x : to<T>(log1p(wide(e))); }
__device__ float softplus(float x) { float e = expf(x); return isinf(e) ? x : log1pf(e); }

template <class T> __device__ T reduced(int op, T x) {
    const T one = to<T>(1.f), half = to<T>(.5f), zero = to<T>(0.f), sixth = to<T>(1.f / 6), alpha = to<T>(1.6732632f);
    switch (op) {
    case 0: return hexp(x);
    case 1: return hlog(x);
    case 2: return hsqrt(x);
    case 3: return over(one, x);
    case 4: return hsin(x);
    case 5: return hcos(x);
    case 6: return to<T>(tanf(wide(x)));
    case 7: return to<T>(erff(wide(x)));
    case 8: return htanh(x);
    case 9: return over(one, hsqrt(x));
    case 10: return to<T>(fmaf(__tanhf(wide(x) * .5f), .5f, .5f));
    case 11: return to<T>(wide(x) * fmaf(__tanhf(wide(x) * .5f), .5f, .5f));
    case 12: return __hlt(x, zero) ? __hmul(one, __hsub(hexp(x), one)) : x;
    case 13: return __hmul(__hgt(x, zero) ? x : __hadd(__hmul(hexp(x), alpha), __hneg(alpha)), to<T>(1.0507010f));
    case 14: return __hmul(__hmul(x, __hadd(to<T>(erff(wide(over(x, to<T>(1.4142135f))))), one)), half);
    case 15: {
        T s = __hadd(__hmul(__hmul(__hmul(x, x), x), to<T>(.044715f)), x);
        return __hmul(__hmul(x, __hadd(htanh(__hmul(s, to<T>(.79788456f))), one)), half);
    }
    case 16: return softplus(x);
    case 17: return __hmul(x, htanh(softplus(x)));
    case 18: return more(less(__hadd(__hmul(x, sixth), half), one), zero);
    case 19: return __hmul(x, more(less(__hadd(__hmul(x, sixth), half), one), zero));
    case 20: return more(__hmul(x, to<T>(.01f)), x);
    }
    return zero;
}
__device__ float fp32(int op, float x) {
    switch (op) {
    case 0: return expf(x);
    case 1: return logf(x);
    case 2: return sqrtf(x);
    case 3: return 1.f / x;
    case 4: return sinf(x);
    case 5: return cosf(x);
    case 6: return tanf(x);
    case 7: return erff(x);
    case 8: return tanhf(x);
    case 9: return 1.f / sqrtf(x);
    case 10: return 1.f / (1.f + __expf(-x));
    case 11: return 1.f / (1.f + __expf(-x)) * x;
    case 12: return x < 0.f ? __expf(x) - 1.f : x;
    case 13: return (x > 0 ? x : expf(x) * 1.6732632f - 1.6732632f) * 1.0507010f;
    case 14: return x * (erff(x / 1.4142135f) + 1.f) * .5f;
    case 15: return x * (tanhf((x * x * x * .044715f + x) * .79788456f) + 1.f) * .5f;
    case 16: return softplus(x);
    case 17: return x * tanhf(softplus(x));
    case 18: return fmaxf(fminf(x * (1.f / 6) + .5f, 1.f), 0.f);
    case 19: return x * fmaxf(fminf(x * (1.f / 6) + .5f, 1.f), 0.f);
    case 20: return fmaxf(x * .01f, x);
    }
    return 0;
}
template <class T> __global__ void both(int op, const T* x, T* y, T* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { y[i] = reduced<T>(op, x[i]); z[i] = to<T>(fp32(op, wide(x[i]))); }
}
extern "C" int run(bool is_bf16, int op, void* x, void* y, void* z, int n) {
    int blocks = (n + 255) / 256;
    if (is_bf16) both<<<blocks, 256>>>(op, (bf16*)x, (bf16*)y, (bf16*)z, n);
    else both<<<blocks, 256>>>(op, (__half*)x, (__half*)y, (__half*)z, n);
    return cudaDeviceSynchronize();
}
"""
OPERATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Erf": torch.erf,
    "Tanh": torch.tanh,
    "rsqrt": torch.rsqrt,
    "Sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "Elu": functional.elu,
    "Selu": functional.selu,
    "Gelu": functional.gelu,
    "Gelu tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "Softplus": functional.softplus,
    "Mish": functional.mish,
    "HardSigmoid": functional.hardsigmoid,
    "HardSwish": functional.hardswish,
    "LeakyRelu": functional.leaky_relu,
}
"""In the order of the cases in the source."""

POSITIVE = frozenset({"Log", "Sqrt", "rsqrt"})


def compared(a: torch.Tensor, b: torch.Tensor) -> str:
    """In how many values two tensors differ, and by how many numbers of their type at most; infinities against numbers apart."""
    bits = [t.view(torch.int16).to(torch.int32) for t in (a, b)]
    first, second = (torch.where(t < 0, -(t & 0x7FFF), t) for t in bits)
    finite = torch.isfinite(a) & torch.isfinite(b)
    steps = (first - second).abs()[finite]
    odd = int((torch.isfinite(a) != torch.isfinite(b)).sum())
    return f"{int((steps > 0).sum()):>6} by {int(steps.max()):>5}" + (f" and {odd} infinite" if odd else "")


def compiled(folder: Path) -> ctypes.CDLL:
    """The source as a library, for the GPU that is there."""
    (folder / "inside.cu").write_text(SOURCE)
    major, minor = torch.cuda.get_device_capability()
    flags = ["-O3", f"-arch=sm_{major}{minor}", "-shared", "-Xcompiler", "-fPIC"]
    subprocess.run(["nvcc", *flags, "-o", "inside.so", "inside.cu"], check=True, cwd=folder)
    return ctypes.CDLL(str(folder / "inside.so"))


def rows(library: ctypes.CDLL, dtype: torch.dtype) -> Iterator[tuple[str, int, str, str, str]]:
    """(operator, values, reduced, casts, torch)."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).cuda()
    for op, (name, function) in enumerate(OPERATORS.items()):
        x = every[torch.isfinite(every) & ((every > 0) if name in POSITIVE else True)].contiguous()
        y, z = torch.empty_like(x), torch.empty_like(x)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y, z)]
        if library.run(dtype == torch.bfloat16, op, *pointers, x.numel()):
            raise RuntimeError(f"the kernel of {name} failed")
        kernel, once = function(x), function(x.float()).to(dtype)
        yield name, x.numel(), compared(y, kernel), compared(z, kernel), compared(kernel, once)


def main() -> None:
    """Compile, run and print."""
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
        for dtype in (torch.float16, torch.bfloat16):
            print(f"\n{str(dtype).removeprefix('torch.'):12} {'values':>6}  {'reduced':28} {'casts':28} torch")
            for name, count, *columns in rows(library, dtype):
                print(f"{name:12} {count:>6}  " + " ".join(f"{text:28}" for text in columns))


if __name__ == "__main__":
    main()
