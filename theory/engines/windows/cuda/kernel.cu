// Sums over the windows of training images, for the pixels of noisy images: squared distances by box sums, their exponentials, and sums.
//
// A block takes NOISY noisy images (or a band of TH of their rows) and every parts-th group of G training images. Its warps work in two parts, a
// stage apart, with one barrier a stage:
// - MAKERS warps make planes. A thread is a column of differences between the noisy image and one shifted training image. It goes down the
//   column for PROGRAMS shifts at once, one row apart, and all noisy images, which share what they read (TALL rows of an image lie side by
//   side, to be read at once), sums each box of KH rows in registers, and writes the sums to shared memory.
// - SUMMERS warps sum along rows. A thread owns Q neighbouring pixels of a row: it reads a row of a plane, sums each box of KW columns, for
//   each noisy image, reads the values that these share, and adds weights, their squares and weighted values to sums in registers, relative to the best cost of each pixel so far but for SLACK bits.
//   These are added to float64 sums of the thread's own in global memory before there are too many of them. Nothing is ever added by two
//   threads to one number, so that the result is the same each time.
// What is compared with what stands in tables (tables.py): which rows of either image follow each other in a column of differences (segments of
// several shifts may share a column), which columns belong to a slot, and which pixels a segment of slots is for.
//
// Everything is counted in bits: a cost is |x - factor y|^2 - log2 w, for images that were scaled so.
// Sizes are macros (plan.py): REAL, CHANNELS, FIRST_VALUE, VALUES, WIDTH, TH, ROWS, KH, KW, WRAP_ROWS, WRAP_COLS, IDENTITY, FULL, SHARED_ROWS,
// STATIC_X, PROGRAMS, Q, GROUPS, MAKERS, SUMMERS, PITCH, X_ROWS, X_PITCH, Y_ROWS, Y_PITCH, PAD, G, SLABS, SEGMENTS, CHUNKS, FLUSH, DOWN, ALONG, WRAP_ANY, NOISY, TALL.

#define SLOTS (32 * MAKERS)
#define THREADS (SLOTS + 32 * SUMMERS)

#ifdef __CUDACC_RTC__
#define INLINE __device__ __forceinline__
INLINE float power_of_two(float v) { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
INLINE double power_of_two(double v) { return exp2(v); }
INLINE void copy_async(float* to, const float* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
INLINE void copy_async(double* to, const double* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
INLINE void barrier() { asm volatile("bar.sync 1, %0;" :: "n"(THREADS) : "memory"); }  // of all threads, wherever in the code they are
INLINE void copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

typedef long long integer;

#define POSITIONS (WRAP_ROWS ? ROWS : ROWS - KH + 1)
#define UNITS (GROUPS * TH)
#define REPLICAS (32 * SUMMERS / UNITS)
#define FIELDS (3 + VALUES)
#define V_ROWS (IDENTITY ? TH : TH + 1)
#define PLANE (V_ROWS * PITCH)
#define PLACES ((POSITIONS + 3) / 4 * 4)
#define MAPS (IDENTITY ? 0 : (PROGRAMS * (PLACES + TH) + 3) / 4 * 4)
#define IMAGE_PLANES (PROGRAMS * PLANE)
#define X_SLAB (NOISY * X_IMAGE)
#define X_IMAGE (CHANNELS * X_ROWS * X_PITCH)
#define Y_IMAGE (CHANNELS * Y_ROWS * Y_PITCH)
#define Y_SLAB (G * Y_IMAGE)
#define QUADS ((Q + KW - 1 + 3) / 4)
#define EVEN (REPLICAS % PROGRAMS == 0)  // then a thread sums one of the shifts that are made together, or else all
#define LEFT 8          // slots before the first of a row of a plane
#define SLACK REAL(16)     // bits that a cost may lie below the best known before sums are rescaled
#define EMPTY REAL(1e30)   // the cost of no candidate at all
#define ABSENT REAL(3e38)  // what the weight of an image that is none adds to costs: beyond `EMPTY`, so that it never weighs anything

INLINE float larger(float a, float b) { return fmaxf(a, b); }  // the number, where the other is none
INLINE double larger(double a, double b) { return fmax(a, b); }
INLINE REAL multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
INLINE REAL multiply_add(double a, double b, double c) { return fma(a, b, c); }

// The sum of `n` numbers of a list from `at` on, by halves.
template <int n> struct Tree {
    template <class D> static INLINE REAL sum(const D& d, int at) { return Tree<n / 2>::sum(d, at) + Tree<n - n / 2>::sum(d, at + n / 2); }
};
template <> struct Tree<1> {
    template <class D> static INLINE REAL sum(const D& d, int at) { return d[at]; }
};

struct Nothing {};
INLINE REAL plus(REAL v, Nothing) { return v; }
INLINE REAL plus(REAL v, REAL more) { return v + more; }

// `size` sums of `k >= size` neighbours each, from `at` on: what all have in common once, and what lies before and after it. Positive numbers
// are added only, so that the error of a sum is relative to it.
template <int k, int size> struct Boxes {
    template <class D, class Out, class More> static INLINE void emit(const D& d, int at, Out& out, More more) {
        REAL s[size];
        s[size - 1] = plus(Tree<k - size + 1>::sum(d, at + size - 1), more);
        #pragma unroll
        for (int j = size - 2; j >= 0; j--) s[j] = s[j + 1] + d[at + j];
        out(at, s[0]);
        REAL after = REAL(0);
        #pragma unroll
        for (int j = 1; j < size; j++) {
            after = j == 1 ? d[at + k] : after + d[at + k + j - 1];
            out(at + j, s[j] + after);
        }
    }
};

// All of `count` sums, `most` at a time, and what remains.
template <int k, int count, int most> struct All {
    template <class D, class Out, class More> static INLINE void emit(const D& d, int at, Out& out, More more) {
        Boxes<k, (count < most ? count : most)>::emit(d, at, out, more);
        All<k, (count > most ? count - most : 0), most>::emit(d, at + most, out, more);
    }
};
template <int k, int most> struct All<k, 0, most> {
    template <class D, class Out, class More> static INLINE void emit(const D&, int, Out&, More) {}
};

// Differences of a column, around the image where it is whole.
struct Column {
    const REAL* d;
    INLINE REAL operator[](int i) const { return WRAP_ROWS ? d[(i + ROWS * KH - KH / 2) % ROWS] : d[i]; }
};

// Where the sums of a column go.
struct Stored {
    REAL* plane;
    const int4* places;  // in bytes
    INLINE void operator()(int position, REAL v) const {
        if (IDENTITY) { plane[position * PITCH] = v; return; }
        const int4 four = places[position / 4];
        const int at = position % 4 == 0 ? four.x : position % 4 == 1 ? four.y : position % 4 == 2 ? four.z : four.w;
        *(REAL*)((unsigned char*)plane + at) = v;
    }
};

struct Kept {
    REAL* o;
    INLINE void operator()(int i, REAL v) const { o[i] = v; }
};

INLINE void load4(const float* p, float* v) { float4 f = *(const float4*)p; v[0] = f.x; v[1] = f.y; v[2] = f.z; v[3] = f.w; }
INLINE void load4(const double* p, double* v) {
    double2 f = *(const double2*)p, g = *(const double2*)(p + 2);
    v[0] = f.x; v[1] = f.y; v[2] = g.x; v[3] = g.y;
}

INLINE void load_rows(const float* p, float* v) {
    if (TALL == 1) { v[0] = p[0]; return; }
    float2 f = *(const float2*)p;
    v[0] = f.x; v[TALL - 1] = f.y;
}
INLINE void load_rows(const double* p, double* v) { v[0] = p[0]; }

// Rows of images into shared memory, TALL of them side by side: a warp takes a row at a time; rows below zero are zero.
INLINE void copy_rows(REAL* to, const REAL* from, const int* rows, int count, int pitch, int pad, bool wrapped, integer height, int thread) {
    const int lane = thread & 31;
    for (int i = thread >> 5; i < CHANNELS * count; i += THREADS / 32) {
        int c = i / count, row = rows[i - c * count];
        const REAL* source = from + ((integer)c * height + row) * WIDTH;
        REAL* target = to + i / TALL * TALL * pitch + i % TALL;
        for (int j = lane; j < pitch; j += 32) {
            int col = j - pad;
            if (wrapped) { col = col < 0 ? 0 : col; while (col >= WIDTH) col -= WIDTH; }
            if (row >= 0 && col >= 0 && col < WIDTH) copy_async(target + j * TALL, source + col);
            else target[j * TALL] = REAL(0);
        }
    }
}

// The differences of one column for PROGRAMS shifts of each noisy image, and their box sums.
INLINE void make(const REAL* x, const REAL* y, const REAL* factors, REAL* plane, const int* places) {
    const int HELD = PROGRAMS == 2 ? TALL : 0;  // rows that the next ones are met with too
    REAL d[NOISY][PROGRAMS][ROWS], rows[CHANNELS][HELD + TALL];
    #pragma unroll
    for (int c = 0; c < CHANNELS; c++)
        if (HELD) load_rows(y + c * Y_ROWS * Y_PITCH, rows[c]);
    #pragma unroll
    for (int r = 0; r < ROWS; r += TALL) {
        #pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            if (r + HELD < ROWS + PROGRAMS - 1) load_rows(y + (c * Y_ROWS + r + HELD) * Y_PITCH, rows[c] + HELD);
            #pragma unroll
            for (int n = 0; n < NOISY; n++) {
                REAL pixels[TALL];
                load_rows(x + n * X_IMAGE + (c * X_ROWS + r) * X_PITCH, pixels);
                #pragma unroll
                for (int i = 0; i < TALL && r + i < ROWS; i++)
                    #pragma unroll
                    for (int p = 0; p < PROGRAMS; p++) {
                        const REAL e = multiply_add(factors[n], rows[c][i + p], pixels[i]);
                        d[n][p][r + i] = c == 0 ? e * e : multiply_add(e, e, d[n][p][r + i]);
                    }
            }
            #pragma unroll
            for (int i = 0; i < HELD; i++) rows[c][i] = rows[c][TALL + i];
        }
    }
    #pragma unroll
    for (int n = 0; n < NOISY; n++)
        #pragma unroll
        for (int p = 0; p < PROGRAMS; p++) {
            Column column = {d[n][p]};
            Stored stored = {plane + n * IMAGE_PLANES + p * PLANE, (const int4*)(places + p * PLACES)};
            All<KH, POSITIONS, DOWN>::emit(column, 0, stored, Nothing());
        }
}

struct Sums {
    REAL best[Q], weight[Q], square[Q], value[VALUES][Q];
};

INLINE void clear(Sums& s) {
    #pragma unroll
    for (int q = 0; q < Q; q++) {
        s.weight[q] = s.square[q] = REAL(0);
        #pragma unroll
        for (int c = 0; c < VALUES; c++) s.value[c][q] = REAL(0);
    }
}

// Costs of Q pixels of each noisy image against their partners: pixels from `low` to `high` have one.
template <bool MASKED> INLINE void add(Sums* sums, const REAL (*o)[Q], const REAL* values, int low, int high) {
    REAL a[NOISY][Q];
    #pragma unroll
    for (int n = 0; n < NOISY; n++) {
        Sums& s = sums[n];
        REAL most = -EMPTY;
        #pragma unroll
        for (int q = 0; q < Q; q++) {
            a[n][q] = s.best[q] - o[n][q];
            if (MASKED && (q < low || q >= high)) a[n][q] = -EMPTY;
            most = larger(most, a[n][q]);
        }
        if (most > SLACK) {
            #pragma unroll
            for (int q = 0; q < Q; q++)
                if (a[n][q] > SLACK) {
                    REAL shrink = power_of_two(-a[n][q]);
                    s.best[q] = o[n][q];
                    a[n][q] = REAL(0);
                    s.weight[q] *= shrink;
                    s.square[q] *= shrink * shrink;
                    #pragma unroll
                    for (int c = 0; c < VALUES; c++) s.value[c][q] *= shrink;
                }
        }
    }
    #pragma unroll
    for (int q = 0; q < Q; q++) {
        #pragma unroll
        for (int n = 0; n < NOISY; n++) {
            const REAL w = a[n][q] = power_of_two(a[n][q]);
            sums[n].weight[q] += w;
            sums[n].square[q] = multiply_add(w, w, sums[n].square[q]);
        }
        #pragma unroll
        for (int c = 0; c < VALUES; c++) {
            const REAL value = values[(FIRST_VALUE + c) * Y_ROWS * Y_PITCH + q * TALL];
            #pragma unroll
            for (int n = 0; n < NOISY; n++) sums[n].value[c][q] = multiply_add(a[n][q], value, sums[n].value[c][q]);
        }
    }
}

// Sums of a thread to their place in global memory, in float64.
INLINE void flush(Sums& s, double* to, bool fresh) {
    #pragma unroll
    for (int q = 0; q < Q; q++) {
        double* p = to + q * UNITS;
        const int field = Q * UNITS;
        double best = (double)s.best[q], shrink = fresh ? 0.0 : (double)power_of_two((REAL)(best - p[0]));
        p[0] = best;
        p[field] = (double)s.weight[q] + (fresh ? 0.0 : shrink * p[field]);
        p[2 * field] = (double)s.square[q] + (fresh ? 0.0 : shrink * shrink * p[2 * field]);
        #pragma unroll
        for (int c = 0; c < VALUES; c++) p[(3 + c) * field] = (double)s.value[c][q] + (fresh ? 0.0 : shrink * p[(3 + c) * field]);
    }
    clear(s);
}

// What a block works on: arguments of the kernel, and its shared memory.
struct Work {
    const REAL *image, *y, *costs;
    const int *x_rows, *y_rows, *items, *maps, *lanes, *chunks;
    integer images, height;
    int begin, count, mine;  // items of the band, groups of images
    REAL factors[NOISY];
    REAL* planes;    // [2][NOISY][PROGRAMS][V_ROWS][PITCH]
    REAL* xs;        // [STATIC_X ? 1 : SLABS][NOISY][CHANNELS][X_ROWS / TALL][X_PITCH][TALL]
    REAL* ys;        // [SLABS][G][CHANNELS][Y_ROWS / TALL][Y_PITCH][TALL]
    REAL* offsets;   // [SLABS][G]
    int* mapped;     // [SLABS][MAPS]
    int* pieces;     // [SEGMENTS][8]

    // Rows of the noisy images into one of the places for them.
    INLINE void look(int buffer, int item, int thread) const {
        for (int n = 0; n < NOISY; n++)
            copy_rows(xs + buffer * X_SLAB + n * X_IMAGE, image + n * CHANNELS * height * WIDTH, x_rows + items[4 * item + 2] * X_ROWS, X_ROWS,
                      X_PITCH, 0, false, height, thread);
    }

    // Training images, and what goes with them, into one of the places for it.
    INLINE void load(int slab, int thread) const {
        const int group = SHARED_ROWS ? slab : slab / count, item = begin + (SHARED_ROWS ? 0 : slab - group * count), buffer = slab % SLABS;
        const integer start = ((integer)blockIdx.x + (integer)group * gridDim.x) * G;
        for (int g = 0; g < G; g++) {
            const integer n = start + g < images ? start + g : images - 1;
            copy_rows(ys + buffer * Y_SLAB + g * Y_IMAGE, y + n * CHANNELS * height * WIDTH, y_rows + items[4 * item] * Y_ROWS, Y_ROWS, Y_PITCH,
                      PAD, WRAP_ANY, height, thread);
            if (thread == 0) offsets[buffer * G + g] = start + g < images ? costs[start + g] : ABSENT;
        }
        if (!STATIC_X) look(buffer, item, thread);
        for (int i = thread; i < MAPS; i += THREADS) mapped[buffer * MAPS + i] = maps[item * MAPS + i];
    }
};

// All stages of a block, by the threads that make planes or by those that sum them.
template <bool MAKER> INLINE void stages(const Work& work, int thread, double* to, integer apart) {
    const int own = thread - SLOTS, unit = own % UNITS, replica = own / UNITS, row = unit % TH, column = unit / TH * Q;
    int ahead[QUADS];
    Sums s[NOISY];
    if (!MAKER) {
        #pragma unroll
        for (int i = 0; i < QUADS; i++) ahead[i] = WRAP_COLS ? (column + 4 * i) % WIDTH : column + 4 * i;
        #pragma unroll
        for (int n = 0; n < NOISY; n++) {
            #pragma unroll
            for (int q = 0; q < Q; q++) s[n].best[q] = EMPTY;
            clear(s[n]);
        }
        to += (integer)replica * FIELDS * (Q * UNITS) + unit;
    }
    const int per_slab = SHARED_ROWS ? work.count * CHUNKS : CHUNKS, slabs = SHARED_ROWS ? work.mine : work.mine * work.count;
    const int total = work.mine * work.count * CHUNKS;
    int slab = 0, age = 0, item = work.begin, chunk = 0;  // of the stage that is made
    int old_slab = 0, old_item = item, old_chunk = 0;    // of the stage that is summed
    #pragma unroll 1
    for (int stage = 0; stage <= total; stage++) {
        if (stage < total && age == (SLABS == 3 ? 0 : 1) && slab + 1 < slabs) work.load(slab + 1, thread);
        if (MAKER && stage < total) {
            const int buffer = slab % SLABS, *at = work.lanes + 2 * (chunk * SLOTS + thread);
            make(work.xs + (STATIC_X ? 0 : buffer * X_SLAB) + at[0], work.ys + buffer * Y_SLAB + work.items[4 * item + 1] * Y_PITCH + at[1],
                 work.factors, work.planes + (stage & 1) * NOISY * IMAGE_PLANES + LEFT + thread, work.mapped + buffer * MAPS);
        }
        if (!MAKER && stage > 0 && replica < REPLICAS) {
            const int buffer = old_slab % SLABS, begin = work.chunks[old_chunk], end = work.chunks[old_chunk + 1];
            const int start = work.items[4 * old_item + 1], programs = work.items[4 * old_item + 3];
            #pragma unroll 1
            for (int program = EVEN ? replica % PROGRAMS : 0; program < PROGRAMS; program += EVEN ? PROGRAMS : 1) {
                const int* where = work.mapped + buffer * MAPS + PROGRAMS * PLACES + program * TH;
                const int position = IDENTITY ? (program < programs ? row : -1) : where[row];
                if (position < 0) continue;
                const int partner = start + position + program + (WRAP_ROWS ? 0 : KH / 2);
                const REAL* plane = work.planes + ((stage - 1) & 1) * NOISY * IMAGE_PLANES + program * PLANE + row * PITCH + LEFT;
                const REAL* values = work.ys + buffer * Y_SLAB + (partner / TALL * Y_PITCH + PAD) * TALL + partner % TALL;
                REAL offset = work.offsets[buffer * G];
                #pragma unroll 1
                for (int i = begin + (EVEN ? replica / PROGRAMS : replica); i < end; i += EVEN ? REPLICAS / PROGRAMS : REPLICAS) {
                    const int* piece = work.pieces + 8 * i;
                    const int low = FULL ? 0 : piece[1] - column, high = FULL ? Q : piece[2] - column;
                    if (low >= Q || high <= 0) continue;
                    if (G > 1) offset = work.offsets[buffer * G + piece[5]];
                    REAL o[NOISY][Q];
                    #pragma unroll
                    for (int n = 0; n < NOISY; n++) {
                        REAL v[4 * QUADS];
                        #pragma unroll
                        for (int j = 0; j < QUADS; j++) load4(plane + n * IMAGE_PLANES + piece[0] + ahead[j], v + 4 * j);
                        Kept kept = {o[n]};
                        All<KW, Q, ALONG>::emit(v, 0, kept, offset);
                    }
                    int col = piece[4] + column;
                    if (WRAP_ANY) col -= col >= WIDTH ? WIDTH : 0;
                    col = TALL * col + (G > 1 ? piece[3] : 0);
                    if (FULL || (low <= 0 && high >= Q)) add<false>(s, o, values + col, 0, Q);
                    else add<true>(s, o, values + col, low, high);
                }
            }
        }
        if (!MAKER && replica < REPLICAS && ((stage > 0 && stage % FLUSH == 0) || stage == total)) {
            #pragma unroll
            for (int n = 0; n < NOISY; n++) flush(s[n], to + n * apart, stage <= FLUSH);
        }
        if (age == per_slab - 1) copy_wait();
        barrier();
        old_slab = slab, old_item = item, old_chunk = chunk;
        if (++chunk == CHUNKS) { chunk = 0; if (++item == work.begin + work.count) item = work.begin; }
        if (++age == per_slab) { age = 0; slab++; }
    }
}

// x: (B, CHANNELS, height, WIDTH), scaled; B a multiple of NOISY. y: (images, CHANNELS, height, WIDTH). costs: (images,), -log2 of weights. factors: (B,).
// parts: (B * bands, gridDim.x, REPLICAS, FIELDS, Q, UNITS): best cost, sum of weights, of squares, of weighted values.
// first: items of each band, (bands + 1,). Grid: parts, B / NOISY * bands.
extern "C" __global__ void __launch_bounds__(THREADS, 1) sum_windows(
    const REAL* x, const REAL* y, const REAL* costs, const REAL* factors, double* parts, const int* x_rows, const int* y_rows, const int* items,
    const int* maps, const int* lanes, const int* segments, const int* chunks, const int* first, integer images, integer height, integer bands
) {
    SHARED_MEMORY(memory);
    const int thread = threadIdx.x, noisy = blockIdx.y / (int)bands * NOISY, band = blockIdx.y % (int)bands;
    const integer groups = (images + G - 1) / G;
    Work work;
    work.image = x + (integer)noisy * CHANNELS * height * WIDTH, work.y = y, work.costs = costs;
    for (int n = 0; n < NOISY; n++) work.factors[n] = factors[noisy + n];
    work.x_rows = x_rows, work.y_rows = y_rows, work.items = items, work.maps = maps, work.lanes = lanes, work.chunks = chunks;
    work.images = images, work.height = height, work.begin = first[band], work.count = first[band + 1] - first[band];
    work.mine = groups > blockIdx.x ? (int)((groups - blockIdx.x + gridDim.x - 1) / gridDim.x) : 0;
    work.pieces = (int*)memory;  // what is read four at a time comes first
    work.mapped = work.pieces + 8 * SEGMENTS;
    work.planes = (REAL*)(work.mapped + SLABS * MAPS);
    work.xs = work.planes + 2 * NOISY * IMAGE_PLANES;
    work.ys = work.xs + (STATIC_X ? 1 : SLABS) * X_SLAB;
    work.offsets = work.ys + SLABS * Y_SLAB;

    for (int i = thread; i < 8 * SEGMENTS; i += THREADS) work.pieces[i] = segments[i];
    if (STATIC_X) work.look(0, work.begin, thread);
    if (work.mine > 0) work.load(0, thread);
    copy_wait();
    barrier();
    const integer size = REPLICAS * FIELDS * (Q * UNITS);
    double* to = parts + ((noisy * bands + band) * gridDim.x + blockIdx.x) * size;
    if (thread < SLOTS) stages<true>(work, thread, to, 0);
    else stages<false>(work, thread, to, bands * gridDim.x * size);
}

// Sums of all parts of each pixel, in their order: best (B, pixels) and sums (B, FIELDS - 1, pixels). Blocks of 32 x 8 threads; a row of these
// takes every eighth part.
extern "C" __global__ void merge_parts(const double* parts, double* best, double* sums, integer count, integer height, integer bands) {
    SHARED_MEMORY(memory);
    double* shared = (double*)memory;  // [8][FIELDS][32]
    const int lane = threadIdx.x & 31, split = threadIdx.x >> 5, size = Q * UNITS;
    const int slot = blockIdx.x * 32 + lane, band = slot / size, place = slot - band * size;
    const integer stride = (integer)FIELDS * size;
    double mine[FIELDS];
    mine[0] = (double)EMPTY;
    #pragma unroll
    for (int f = 1; f < FIELDS; f++) mine[f] = 0.0;
    if (band < bands) {
        const double* from = parts + ((integer)blockIdx.y * bands + band) * count * stride + place;
        for (integer i = split; i < count; i += 8) {
            const double* p = from + i * stride;
            const double low = p[0] < mine[0] ? p[0] : mine[0], a = exp2(low - mine[0]), b = exp2(low - p[0]);
            #pragma unroll
            for (int f = 1; f < FIELDS; f++) mine[f] = mine[f] * (f == 2 ? a * a : a) + p[f * size] * (f == 2 ? b * b : b);
            mine[0] = low;
        }
    }
    #pragma unroll
    for (int f = 0; f < FIELDS; f++) shared[(split * FIELDS + f) * 32 + lane] = mine[f];
    __syncthreads();
    if (split > 0 || band >= bands) return;
    for (int i = 1; i < 8; i++) {
        const double* p = shared + i * FIELDS * 32 + lane;
        const double low = p[0] < mine[0] ? p[0] : mine[0], a = exp2(low - mine[0]), b = exp2(low - p[0]);
        #pragma unroll
        for (int f = 1; f < FIELDS; f++) mine[f] = mine[f] * (f == 2 ? a * a : a) + p[f * 32] * (f == 2 ? b * b : b);
        mine[0] = low;
    }
    const int q = place / UNITS, unit = place - q * UNITS, row = band * TH + unit % TH, col = unit / TH * Q + q;
    if (row >= height || col >= WIDTH) return;
    const integer pixels = height * WIDTH, pixel = (integer)row * WIDTH + col;
    best[blockIdx.y * pixels + pixel] = mine[0];
    #pragma unroll
    for (int f = 1; f < FIELDS; f++) sums[(blockIdx.y * (integer)(FIELDS - 1) + f - 1) * pixels + pixel] = mine[f];
}
