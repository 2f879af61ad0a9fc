// AdamW for all tensors of a model in one launch. With g = gradient * gradient_scale at step t:
//
//     m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//     w = w - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w)
//
// and with decoupled = 0, which is Adam, decay w is added to g in place of the last line.
//
// A model in bfloat16 multiplies by w rounded to bfloat16 (minillm/layers/parameter.py). w is at
// hand here, so the rounded copy is written beside it, and no product has to round its weight.
//
// Work: tensor_list.cuh deals out blocks of 256 threads to pieces of 4096 elements; a thread
// updates 16 of them. Shared memory: none. Memory moved: 28 bytes an element (w, m and v in and
// out, g in), for about ten operations, and 2 more for the copy.

#include <cuda_bf16.h>

#include "tensor_list.cuh"

// The four tables of addresses and `weight_decays` have one entry a tensor, `copies` one for each
// of the first `copied` tensors. gradient_scale is read from the device, so that clipping by a norm
// that was computed there does not wait for the host. Where it is not finite, because a gradient is
// not, no weight is changed: the host reads the norm one step later; the weights are still
// unchanged. Copies are written in any case: they may be older than the weights.
__global__ void __launch_bounds__(256, 5) adamw(float* const* values, const float* const* gradients, float* const* first_moments,
                      float* const* second_moments, __nv_bfloat16* const* copies, const long long* layout,
                      const float* weight_decays, const float* gradient_scale, int tensors, int copied, float lr, float beta1, float one_minus_beta1,
                      float beta2, float one_minus_beta2, float eps, float correction1, float correction2, int decoupled) {
    Piece piece = piece_of_block(layout, tensors);
    float* __restrict__ value = values[piece.tensor];
    const float* __restrict__ gradient = gradients[piece.tensor];
    float* __restrict__ first_moment = first_moments[piece.tensor];
    float* __restrict__ second_moment = second_moments[piece.tensor];
    float decay = weight_decays[piece.tensor], scale = *gradient_scale;
    __nv_bfloat16* __restrict__ copy = piece.tensor < copied ? copies[piece.tensor] : nullptr;
    if (!isfinite(scale)) {
        for (long long i = piece.start + threadIdx.x; copy && i < piece.end; i += blockDim.x) copy[i] = value[i];
        return;
    }
#pragma unroll 4
    for (long long i = piece.start + threadIdx.x; i < piece.end; i += blockDim.x) {
        float w = value[i], g = gradient[i] * scale + (decoupled ? 0 : decay * w);
        float m = beta1 * first_moment[i] + one_minus_beta1 * g;
        float v = beta2 * second_moment[i] + one_minus_beta2 * g * g;
        first_moment[i] = m;
        second_moment[i] = v;
        w = w - lr * (m / correction1 / (sqrtf(v / correction2) + eps) + (decoupled ? decay * w : 0));
        value[i] = w;
        if (copy) copy[i] = w;
    }
}

// Copies alone, after a step of an optimizer that has no kernel. Work: as above. Memory moved: 6
// bytes an element.
__global__ void round_to_bfloat16(const float* const* values, __nv_bfloat16* const* copies, const long long* layout,
                                  int tensors) {
    Piece piece = piece_of_block(layout, tensors);
    const float* __restrict__ value = values[piece.tensor];
    __nv_bfloat16* __restrict__ copy = copies[piece.tensor];
#pragma unroll 4
    for (long long i = piece.start + threadIdx.x; i < piece.end; i += blockDim.x) copy[i] = value[i];
}
