// What every window of a noisy image costs at least against each training image, by boxes around the coordinates of tiles of its windows.
//
// A thread is a pixel and holds its coordinates; all threads of a block read the boxes of one training image after another. A cost is in bits:
// SCALE times a squared distance. Rounding only makes it smaller: `slack` is what coordinates and boxes may be off by, and the rest is
// relative. DIMS and TILES are macros (tiles.py).

#ifdef __CUDACC_RTC__
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif
#define UNIT 5.9604645e-8f

typedef long long integer;

// queries: (DIMS, pixels). boxes: (images, TILES, DIMS, 2), the middle and half of the width. numbers: slack and scale.
// costs: (images, pixels). Grid: images side by side, blocks of 256 pixels.
extern "C" __global__ void bound_tiles(
    const float* queries, const float* boxes, const float* numbers, float* costs, integer images, integer pixels
) {
    SHARED_MEMORY(memory);
    float* shared = (float*)memory;  // [TILES][DIMS][2]
    const integer pixel = (integer)blockIdx.y * blockDim.x + threadIdx.x;
    const float slack = numbers[0], scale = numbers[1];
    float query[DIMS];
    #pragma unroll
    for (int i = 0; i < DIMS; i++) query[i] = pixel < pixels ? queries[i * pixels + pixel] : 0.0f;
    for (integer n = blockIdx.x; n < images; n += gridDim.x) {
        for (int i = threadIdx.x; i < 2 * TILES * DIMS; i += blockDim.x) shared[i] = boxes[n * (2 * TILES * DIMS) + i];
        __syncthreads();
        float nearest = 3e38f;
        for (int tile = 0; tile < TILES; tile++) {
            const float* box = shared + tile * (2 * DIMS);
            float squared = 0.0f;
            #pragma unroll
            for (int i = 0; i < DIMS; i++) {
                const float beyond = fmaxf(fabsf(query[i] - box[2 * i]) - box[2 * i + 1], 0.0f);
                squared = fmaf(beyond, beyond, squared);
            }
            nearest = fminf(nearest, squared);
        }
        const float distance = fmaxf(sqrtf(nearest) * (1.0f - (DIMS + 8) * UNIT) - slack, 0.0f);
        if (pixel < pixels) costs[n * pixels + pixel] = scale * distance * distance * (1.0f - 8 * UNIT);
        __syncthreads();
    }
}
