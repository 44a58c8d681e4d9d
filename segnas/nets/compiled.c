/* The CPU kernels of the fused engine, for float and double: rows of channels (N, H, W, C) in memory, C innermost.
 *
 * The plain torch versions in kernels.py say the same in a few lines and are the oracle of the tests. Work is split among the
 * threads by position alone, so that the same number of threads gives the same bits.
 */
#ifndef T
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef long long i64;
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define SCRATCH (512 * 1024) /* bytes of rows that a thread holds: inside a second-level cache */
#define BLOCK 64             /* rows that are summed in T before they are added to a double */

typedef struct {
    i64 images, height, width;
    i64 edges, copies;    /* copies = edges: all edges share the channels of x; 1: each has channels of its own */
    i64 into, out;        /* channels of an edge before and after its 1x1 convolution */
    i64 kernel, stride, dilation, out_height, out_width;
    i64 rectify;          /* x is max(x, 0), after its norm if it has one */
    i64 paths;            /* parts of the images with statistics of their own */
    i64 threads;
} Shape;

static i64 common(i64 a, i64 b) { return b ? common(b, a % b) : a; }

#define T float
#define NAME(x) x##_float
#include "compiled.c"
#undef T
#undef NAME
#define T double
#define NAME(x) x##_double
#include "compiled.c"

#else
#define V NAME(V)
#define Plan NAME(Plan)
#define LANES ((i64)(64 / sizeof(T)))
#define ROUND(n) (((n) + LANES - 1) / LANES * LANES)
#define NEW(count) aligned_alloc(64, (((count) + LANES) * sizeof(T) + 63) / 64 * 64)
/* Rows of work of a thread: declares its `id` of `n`, and that it does those `from` .. `to`. */
#define ROWS_OF_THREAD(rows) i64 id = omp_get_thread_num(), n = omp_get_num_threads(), from = (rows) * id / n, to = (rows) * (id + 1) / n
typedef T V __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));

/* What follows from a shape: bands of output rows, each a unit of work that fits a thread's cache. */
typedef struct {
    i64 channels, wide, source, taps, reach, pad, columns, pitch, band, bands, units;
} Plan;

static Plan NAME(plan)(const Shape *s) {
    Plan p;
    p.channels = s->edges * s->into; /* of all edges, rounded up: wide; of x: source */
    p.wide = ROUND(p.channels);
    p.source = p.channels / s->copies;
    p.taps = s->kernel * s->kernel;
    p.reach = (s->kernel - 1) * s->dilation;
    p.pad = p.reach / 2;
    p.columns = MAX((s->out_width - 1) * s->stride, s->width - 1) + p.reach + 1;
    p.pitch = p.columns * p.wide;
    i64 fit = SCRATCH / (2 * p.pitch * (i64)sizeof(T)) - p.reach;
    fit = MIN(s->out_height, MAX(4, fit / s->stride));
    i64 bands = MAX((s->out_height + fit - 1) / fit, MIN(s->out_height, s->threads / common(s->images, s->threads)));
    p.band = (s->out_height + bands - 1) / bands;
    p.bands = (s->out_height + p.band - 1) / p.band;
    p.units = s->images * p.bands;
    return p;
}

/* Rows first .. first + rows of one image, normalised, rectified, repeated for the edges, with zeros around: (rows, columns, wide). */
static void NAME(fill)(const Shape *s, const Plan *p, const T *x, const T *mean, const T *scale, T *padded, i64 first, i64 rows) {
    memset(padded, 0, rows * p->pitch * sizeof(T));
    for (i64 row = 0; row < rows; row++) {
        i64 y = first + row - p->pad;
        if (y < 0 || y >= s->height) continue;
        for (i64 column = 0; column < s->width; column++) {
            const T *from = x + (y * s->width + column) * p->source;
            T *to = padded + row * p->pitch + (p->pad + column) * p->wide;
            if (mean)
                for (i64 c = 0; c < p->source; c++) to[c] = (from[c] - mean[c]) * scale[c];
            else
                memcpy(to, from, p->source * sizeof(T));
            if (s->rectify)
                for (i64 c = 0; c < p->source; c++) to[c] = to[c] < 0 ? 0 : to[c];
            for (i64 copy = 1; copy < s->copies; copy++) memcpy(to + copy * p->source, to, p->source * sizeof(T));
        }
    }
}

/* One row of a depthwise convolution: out[x, :] = sum over taps of in[i * dilation, x * stride + j * dilation, :] * weight[i, j, :]. */
static inline __attribute__((always_inline)) void NAME(row)(
    const T *in, const T *weight, T *out, i64 width, i64 wide, i64 pitch, i64 kernel, i64 stride, i64 dilation) {
    i64 x = 0;
    for (; x + 4 <= width; x += 4)
        for (i64 g = 0; g < wide; g += LANES) {
            V a = {0}, b = {0}, c = {0}, d = {0};
            for (i64 i = 0; i < kernel; i++)
                for (i64 j = 0; j < kernel; j++) {
                    const T *q = in + i * dilation * pitch + (x * stride + j * dilation) * wide + g;
                    V w = *(const V *)(weight + (i * kernel + j) * wide + g);
                    a += w * *(const V *)q;
                    b += w * *(const V *)(q + stride * wide);
                    c += w * *(const V *)(q + 2 * stride * wide);
                    d += w * *(const V *)(q + 3 * stride * wide);
                }
            *(V *)(out + x * wide + g) = a;
            *(V *)(out + (x + 1) * wide + g) = b;
            *(V *)(out + (x + 2) * wide + g) = c;
            *(V *)(out + (x + 3) * wide + g) = d;
        }
    for (; x < width; x++)
        for (i64 g = 0; g < wide; g += LANES) {
            V a = {0};
            for (i64 i = 0; i < kernel; i++)
                for (i64 j = 0; j < kernel; j++)
                    a += *(const V *)(weight + (i * kernel + j) * wide + g) *
                         *(const V *)(in + i * dilation * pitch + (x * stride + j * dilation) * wide + g);
            *(V *)(out + x * wide + g) = a;
        }
}

static void NAME(any_row)(const Shape *s, const Plan *p, const T *in, const T *weight, T *out, i64 width, i64 stride) {
    switch (s->kernel * 10 + stride) { /* constants where it counts: the taps unroll */
    case 31: NAME(row)(in, weight, out, width, p->wide, p->pitch, 3, 1, s->dilation); break;
    case 51: NAME(row)(in, weight, out, width, p->wide, p->pitch, 5, 1, s->dilation); break;
    default: NAME(row)(in, weight, out, width, p->wide, p->pitch, s->kernel, stride, s->dilation);
    }
}

/* The gradient of its weight, a row of it: sums[j, :] += sum over x of in[x * stride + j * dilation, :] * d[x, :]. */
static inline __attribute__((always_inline)) void NAME(tap_row)(
    const T *in, const T *d, T *sums, i64 width, i64 wide, i64 kernel, i64 stride, i64 dilation) {
    for (i64 g = 0; g < wide; g += LANES) {
        V a[7];
        for (i64 j = 0; j < kernel; j++) a[j] = (V){0};
        for (i64 x = 0; x < width; x++) {
            V v = *(const V *)(d + x * wide + g);
            for (i64 j = 0; j < kernel; j++) a[j] += v * *(const V *)(in + (x * stride + j * dilation) * wide + g);
        }
        for (i64 j = 0; j < kernel; j++) *(V *)(sums + j * wide + g) += a[j];
    }
}

static void NAME(any_tap_row)(const Shape *s, const Plan *p, const T *in, const T *d, T *sums) {
    switch (s->kernel * 10 + s->stride) {
    case 31: NAME(tap_row)(in, d, sums, s->out_width, p->wide, 3, 1, s->dilation); break;
    case 51: NAME(tap_row)(in, d, sums, s->out_width, p->wide, 5, 1, s->dilation); break;
    default: NAME(tap_row)(in, d, sums, s->out_width, p->wide, s->kernel, s->stride, s->dilation);
    }
}

/* to[k, e, :] = from[k, e, :] @ matrices[e] for `count` rows that lie from_pitch and to_pitch apart; matrices (edges, in, ROUND(out)). */
static void NAME(product)(const T *from, i64 from_pitch, const T *matrices, i64 edges, i64 in, i64 out, T *to, i64 to_pitch, i64 count) {
    i64 out_wide = ROUND(out);
    for (i64 k = 0; k < count; k += 8)
        for (i64 e = 0; e < edges; e++)
            for (i64 g = 0; g < out; g += LANES) {
                const T *source = from + k * from_pitch + e * in, *w = matrices + e * in * out_wide + g;
                T *o = to + k * to_pitch + e * out + g;
                i64 some = MIN(8, count - k), lanes = MIN(LANES, out - g);
                V a[8] = {0};
                if (some == 8)
                    for (i64 i = 0; i < in; i++) {
                        V v = *(const V *)(w + i * out_wide);
                        for (i64 j = 0; j < 8; j++) a[j] += v * source[j * from_pitch + i];
                    }
                else
                    for (i64 i = 0; i < in; i++) {
                        V v = *(const V *)(w + i * out_wide);
                        for (i64 j = 0; j < some; j++) a[j] += v * source[j * from_pitch + i];
                    }
                if (lanes == LANES)
                    for (i64 j = 0; j < some; j++) *(V *)(o + j * to_pitch) = a[j];
                else if (lanes == LANES / 2)
                    for (i64 j = 0; j < some; j++) memcpy(o + j * to_pitch, a + j, 32);
                else
                    for (i64 j = 0; j < some; j++) memcpy(o + j * to_pitch, a + j, lanes * sizeof(T));
            }
}

/* The gradient of its matrices: sums[e, o, :] += sum over k of g[k, e, o] * from[k, e, :]; sums (edges, out, ROUND(in)). */
static void NAME(outer)(const T *from, i64 from_pitch, const T *g, i64 edges, i64 in, i64 out, T *sums, i64 count) {
    for (i64 e = 0; e < edges; e++)
        for (i64 i = 0; i < in; i += LANES)
            for (i64 o = 0; o < out; o += 8) {
                const T *source = from + e * in + i, *d = g + e * out + o;
                i64 some = MIN(8, out - o);
                V a[8] = {0};
                if (some == 8)
                    for (i64 k = 0; k < count; k++, source += from_pitch, d += edges * out) {
                        V v = *(const V *)source;
                        for (i64 j = 0; j < 8; j++) a[j] += v * d[j];
                    }
                else
                    for (i64 k = 0; k < count; k++, source += from_pitch, d += edges * out) {
                        V v = *(const V *)source;
                        for (i64 j = 0; j < some; j++) a[j] += v * d[j];
                    }
                for (i64 j = 0; j < some; j++) *(V *)(sums + (e * out + o + j) * ROUND(in) + i) += a[j];
            }
}

/* The depthwise weights of the edges, (in, taps) each, as (taps, wide); backwards: turned around. */
static T *NAME(depthwise_weights)(const Shape *s, const Plan *p, const T **weights, int backwards) {
    T *packed = NEW(p->taps * p->wide);
    memset(packed, 0, p->taps * p->wide * sizeof(T));
    for (i64 c = 0; c < p->channels; c++)
        for (i64 tap = 0; tap < p->taps; tap++)
            packed[(backwards ? p->taps - 1 - tap : tap) * p->wide + c] = weights[c / s->into][c % s->into * p->taps + tap];
    return packed;
}

/* Their 1x1 weights, (out, in) each, as (edges, in, ROUND(out)); backwards: (edges, out, ROUND(in)). */
static T *NAME(matrices)(const Shape *s, const T **weights, int backwards) {
    i64 lines = backwards ? s->out : s->into, wide = ROUND(backwards ? s->into : s->out);
    T *packed = NEW(s->edges * lines * wide);
    memset(packed, 0, s->edges * lines * wide * sizeof(T));
    for (i64 e = 0; e < s->edges; e++)
        for (i64 o = 0; o < s->out; o++)
            for (i64 i = 0; i < s->into; i++)
                packed[e * lines * wide + (backwards ? o * wide + i : i * wide + o)] = weights[e][o * s->into + i];
    return packed;
}

/* x (paths, rows, channels) -> of each path and channel mean, 1 / sqrt(variance + epsilon), and the unbiased variance; sums of
 * differences to the path's first row (whose rounding grows with how far that one lies off the mean). */
static void NAME(moments)(const T *x, i64 paths, i64 rows, i64 channels, double epsilon, i64 threads, T *mean, T *scale, T *variance) {
    i64 all = paths * 2 * channels;
    double *sums = calloc(threads * all, sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(paths * rows);
        T *block = malloc(2 * channels * sizeof(T));
        for (i64 start = from, end; start < to; start = end) {
            i64 path = start / rows;
            end = MIN(MIN(to, start + BLOCK), (path + 1) * rows);
            const T *first = x + path * rows * channels;
            double *own = sums + id * all + path * 2 * channels;
            memset(block, 0, 2 * channels * sizeof(T));
            for (i64 row = start; row < end; row++) {
                const T *z = x + row * channels;
                T *one = block, *two = block + channels;
                for (i64 c = 0; c < channels; c++) {
                    T difference = z[c] - first[c];
                    one[c] += difference;
                    two[c] += difference * difference;
                }
            }
            for (i64 c = 0; c < 2 * channels; c++) own[c] += block[c];
        }
        free(block);
    }
    for (i64 path = 0; path < paths; path++)
        for (i64 c = 0; c < channels; c++) {
            double one = 0, two = 0;
            for (i64 id = 0; id < threads; id++) {
                const double *own = sums + id * all + path * 2 * channels;
                one += own[c], two += own[channels + c];
            }
            double square = MAX(0, two / rows - one / rows * (one / rows));
            mean[path * channels + c] = x[path * rows * channels + c] + one / rows;
            scale[path * channels + c] = 1 / sqrt(square + epsilon);
            variance[path * channels + c] = square * rows / MAX(1, rows - 1);
        }
    free(sums);
}

/* Norm of x if epsilon >= 0, ReLU if rectify, depthwise convolution, 1x1 convolution, of all edges at once:
 * x (images, height, width, channels) -> out (images, out_height, out_width, edges * out). mean, scale, variance (paths, channels)
 * are found, or if `known` used as they are. */
void NAME(separable)(const Shape *s, const T *x, double epsilon, i64 known, T *mean, T *scale, T *variance, const T **depthwise,
                     const T **pointwise, T *out) {
    Plan p = NAME(plan)(s);
    i64 rows_of_path = s->images / s->paths * s->height * s->width;
    if (epsilon >= 0 && !known) NAME(moments)(x, s->paths, rows_of_path, p.source, epsilon, s->threads, mean, scale, variance);
    T *spread = NAME(depthwise_weights)(s, &p, depthwise, 0), *matrices = NAME(matrices)(s, pointwise, 0);
#pragma omp parallel num_threads(MIN(s->threads, p.units))
    {
        ROWS_OF_THREAD(p.units);
        T *padded = NEW(((p.band - 1) * s->stride + p.reach + 1) * p.pitch), *lines = NEW(p.band * s->out_width * p.wide);
        for (i64 unit = from; unit < to; unit++) {
            i64 image = unit / p.bands, top = unit % p.bands * p.band, rows = MIN(p.band, s->out_height - top);
            i64 table = epsilon >= 0 ? image / (s->images / s->paths) * p.source : 0;
            NAME(fill)(s, &p, x + image * s->height * s->width * p.source, epsilon >= 0 ? mean + table : 0, scale + table, padded,
                       top * s->stride, (rows - 1) * s->stride + p.reach + 1);
            for (i64 y = 0; y < rows; y++)
                NAME(any_row)(s, &p, padded + y * s->stride * p.pitch, spread, lines + y * s->out_width * p.wide, s->out_width, s->stride);
            T *o = out + (image * s->out_height + top) * s->out_width * s->edges * s->out;
            NAME(product)(lines, p.wide, matrices, s->edges, s->into, s->out, o, s->edges * s->out, rows * s->out_width);
        }
        free(padded);
        free(lines);
    }
    free(spread);
    free(matrices);
}

void NAME(mix_back)(const T *g, const T **terms, const i64 *shared, const double *epsilons, i64 count, const T *weights, const T *mean,
                    const T *scale, i64 paths, i64 rows, i64 edges, i64 channels, i64 threads, T **out, T *of_weights);

/* The gradients of the above for the gradient g of its result: of_x, and of_depthwise (edges, in, taps) with of_pointwise
 * (edges, out, in); NULL where they are not wanted. What lies between the two convolutions is computed again. */
void NAME(separable_back)(const Shape *s, const T *x, double epsilon, const T *mean, const T *scale, const T **depthwise,
                          const T **pointwise, const T *g, T *of_x, T *of_depthwise, T *of_pointwise) {
    Plan p = NAME(plan)(s);
    i64 most = MIN(s->threads, p.units), in_wide = ROUND(s->into), size = (p.taps * p.wide + s->edges * s->out * in_wide);
    T *spread = NAME(depthwise_weights)(s, &p, depthwise, 0), *turned = NAME(depthwise_weights)(s, &p, depthwise, 1);
    T *matrices = NAME(matrices)(s, pointwise, 1), *sums = NEW(most * size);
    memset(sums, 0, most * size * sizeof(T));
#pragma omp parallel num_threads(most)
    {
        ROWS_OF_THREAD(p.units);
        T *own = sums + id * size, *own_matrices = own + p.taps * p.wide;
        i64 in_rows = p.band * s->stride, halo = (p.reach + s->stride - 1) / s->stride;
        T *padded = NEW((in_rows + p.reach + 1) * p.pitch), *lines = NEW(MAX(p.band * s->out_width, s->width) * p.wide);
        T *inner = NEW((p.band + 2 * halo) * s->out_width * p.wide); /* the gradient between the two convolutions */
        memset(inner, 0, (p.band + 2 * halo) * s->out_width * p.wide * sizeof(T));
        for (i64 unit = from; unit < to; unit++) {
            i64 image = unit / p.bands, top = unit % p.bands * p.band, rows = MIN(p.band, s->out_height - top);
            i64 first = MAX(0, top - halo), last = MIN(s->out_height, top + rows + halo);
            if (!of_x) first = top, last = top + rows;
            const T *from_image = g + image * s->out_height * s->out_width * s->edges * s->out;
            NAME(product)(from_image + first * s->out_width * s->edges * s->out, s->edges * s->out, matrices, s->edges, s->out, s->into,
                          inner, p.wide, (last - first) * s->out_width);
            i64 table = epsilon >= 0 ? image / (s->images / s->paths) * p.source : 0;
            const T *image_of_x = x + image * s->height * s->width * p.source;
            if (of_x) { /* the convolution of what lies between, its kernel turned around, zeros between its pixels for a stride */
                i64 start = top * s->stride, end = MIN(s->height, (top + rows) * s->stride);
                memset(padded, 0, (end - start + p.reach) * p.pitch * sizeof(T));
                for (i64 y = first; y < last; y++) {
                    i64 row = y * s->stride - start + p.pad;
                    if (row < 0 || row >= end - start + p.reach) continue;
                    const T *source = inner + (y - first) * s->out_width * p.wide;
                    T *to_row = padded + row * p.pitch + p.pad * p.wide;
                    if (s->stride == 1)
                        memcpy(to_row, source, s->out_width * p.wide * sizeof(T));
                    else
                        for (i64 c = 0; c < s->out_width; c++)
                            memcpy(to_row + c * s->stride * p.wide, source + c * p.wide, p.wide * sizeof(T));
                }
                for (i64 y = start; y < end; y++) {
                    NAME(any_row)(s, &p, padded + (y - start) * p.pitch, turned, lines, s->width, 1);
                    for (i64 column = 0; column < s->width; column++) {
                        const T *l = lines + column * p.wide, *z = image_of_x + (y * s->width + column) * p.source;
                        T *o = of_x + ((image * s->height + y) * s->width + column) * p.source;
                        memcpy(o, l, p.source * sizeof(T));
                        for (i64 copy = 1; copy < s->copies; copy++)
                            for (i64 c = 0; c < p.source; c++) o[c] += l[copy * p.source + c];
                        if (s->rectify && epsilon >= 0)
                            for (i64 c = 0; c < p.source; c++) o[c] = z[c] > mean[table + c] ? o[c] : 0;
                        else if (s->rectify)
                            for (i64 c = 0; c < p.source; c++) o[c] = z[c] > 0 ? o[c] : 0;
                    }
                }
            }
            if (of_depthwise) {
                NAME(fill)(s, &p, image_of_x, epsilon >= 0 ? mean + table : 0, scale + table, padded, top * s->stride,
                           (rows - 1) * s->stride + p.reach + 1);
                for (i64 y = 0; y < rows; y++) {
                    const T *in = padded + y * s->stride * p.pitch, *d = inner + (top - first + y) * s->out_width * p.wide;
                    NAME(any_row)(s, &p, in, spread, lines + y * s->out_width * p.wide, s->out_width, s->stride);
                    for (i64 i = 0; i < s->kernel; i++)
                        NAME(any_tap_row)(s, &p, in + i * s->dilation * p.pitch, d, own + i * s->kernel * p.wide);
                }
                NAME(outer)(lines, p.wide, from_image + top * s->out_width * s->edges * s->out, s->edges, s->into, s->out, own_matrices,
                            rows * s->out_width);
            }
        }
        free(padded);
        free(lines);
        free(inner);
    }
    if (of_depthwise) {
        for (i64 other = 1; other < most; other++)
            for (i64 c = 0; c < size; c++) sums[c] += sums[other * size + c];
        for (i64 c = 0; c < p.channels; c++)
            for (i64 tap = 0; tap < p.taps; tap++) of_depthwise[c * p.taps + tap] = sums[tap * p.wide + c];
        for (i64 line = 0; line < s->edges * s->out; line++)
            memcpy(of_pointwise + line * s->into, sums + p.taps * p.wide + line * in_wide, s->into * sizeof(T));
    }
    free(spread);
    free(turned);
    free(matrices);
    free(sums);
    if (of_x && epsilon >= 0) {
        i64 no = 0;
        T *weights = NEW(1);
        weights[0] = 1;
        NAME(mix_back)(of_x, &x, &no, &epsilon, 1, weights, mean, scale, s->paths, s->images / s->paths * s->height * s->width, 1,
                       p.source, s->threads, &of_x, 0);
        free(weights);
    }
}

/* A weighted sum of terms, each normalised where its epsilon is >= 0: out[r, e, c] = carry[r % carried, e, c] + sum over t of
 * weights[t, e] * (term_t[r, e, c] - mean[t, p, e, c]) * scale[t, p, e, c]. A shared term has channels c alone, the same for all
 * e. mean, scale, variance (count, paths, edges, channels) are found here. */
void NAME(mix)(const T *carry, i64 carried, const T **terms, const i64 *shared, const double *epsilons, i64 count, const T *weights,
               i64 paths, i64 rows, i64 edges, i64 channels, i64 threads, T *mean, T *scale, T *variance, T *out) {
    i64 wide = edges * channels, all = paths * wide;
    T *by = NEW(count * all);
    for (i64 t = 0; t < count; t++) {
        T *m = mean + t * all, *s = scale + t * all, *v = variance + t * all;
        i64 own = shared[t] ? channels : wide;
        if (epsilons[t] >= 0)
            NAME(moments)(terms[t], paths, rows, own, epsilons[t], threads, m, s, v);
        else
            for (i64 c = 0; c < all; c++) m[c] = 0, s[c] = 1;
        if (shared[t] && epsilons[t] >= 0) /* (paths, channels) -> (paths, edges, channels) */
            for (i64 c = all - 1; c >= 0; c--) {
                i64 place = c / wide * channels + c % channels;
                m[c] = m[place], s[c] = s[place], v[c] = v[place];
            }
        for (i64 c = 0; c < all; c++) by[t * all + c] = s[c] * weights[t * edges + c % wide / channels];
    }
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(paths * rows);
        for (i64 row = from; row < to; row++) {
            T *o = out + row * wide;
            if (carry) memcpy(o, carry + row % carried * wide, wide * sizeof(T));
            else memset(o, 0, wide * sizeof(T));
            for (i64 t = 0; t < count; t++) {
                const T *s = by + (t * paths + row / rows) * wide, *m = mean + (t * paths + row / rows) * wide;
                if (shared[t]) {
                    const T *z = terms[t] + row * channels;
                    for (i64 e = 0; e < wide; e += channels)
                        for (i64 c = 0; c < channels; c++) o[e + c] += s[e + c] * (z[c] - m[e + c]);
                } else {
                    const T *z = terms[t] + row * wide;
                    for (i64 c = 0; c < wide; c++) o[c] += s[c] * (z[c] - m[c]);
                }
            }
        }
    }
    free(by);
}

/* With the gradient g (rows, e, c) of the above and, of each path, S0 = sum over rows of g, S = sum of g * (term - mean):
 * of_weights[t, e] = sum over paths and channels of S * scale, and the gradient of a normalised term of n rows is
 * w * scale * (g - S0 / n - scale^2 * (term - mean) * S / n), summed over e if it is shared. out[t] or of_weights NULL: not
 * wanted. out[0] may be g where there is one edge. */
void NAME(mix_back)(const T *g, const T **terms, const i64 *shared, const double *epsilons, i64 count, const T *weights, const T *mean,
                    const T *scale, i64 paths, i64 rows, i64 edges, i64 channels, i64 threads, T **out, T *of_weights) {
    i64 wide = edges * channels, all = (count + 1) * paths * wide;
    double *sums = calloc(threads * all, sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(paths * rows);
        T *block = malloc((count + 1) * wide * sizeof(T));
        for (i64 start = from, end; start < to; start = end) {
            i64 path = start / rows;
            end = MIN(MIN(to, start + BLOCK), (path + 1) * rows);
            memset(block, 0, (count + 1) * wide * sizeof(T));
            for (i64 row = start; row < end; row++) {
                const T *d = g + row * wide;
                for (i64 c = 0; c < wide; c++) block[c] += d[c];
                for (i64 t = 0; t < count; t++) {
                    if (!of_weights && epsilons[t] < 0) continue;
                    const T *m = mean + (t * paths + path) * wide;
                    T *b = block + (t + 1) * wide;
                    if (shared[t]) {
                        const T *z = terms[t] + row * channels;
                        for (i64 e = 0; e < wide; e += channels)
                            for (i64 c = 0; c < channels; c++) b[e + c] += d[e + c] * (z[c] - m[e + c]);
                    } else {
                        const T *z = terms[t] + row * wide;
                        for (i64 c = 0; c < wide; c++) b[c] += d[c] * (z[c] - m[c]);
                    }
                }
            }
            for (i64 t = 0; t <= count; t++) {
                double *own = sums + id * all + (t * paths + path) * wide;
                for (i64 c = 0; c < wide; c++) own[c] += block[t * wide + c];
            }
        }
        free(block);
    }
    for (i64 other = 1; other < threads; other++)
        for (i64 c = 0; c < all; c++) sums[c] += sums[other * all + c];
    T *by_g = NEW(count * paths * wide), *by_z = NEW(count * paths * wide), *constant = NEW(count * paths * wide);
    for (i64 t = 0; t < count; t++)
        for (i64 e = 0; e < edges; e++) {
            double total = 0;
            for (i64 path = 0; path < paths; path++)
                for (i64 c = 0; c < channels; c++) {
                    i64 here = path * wide + e * channels + c, place = t * paths * wide + here;
                    double s = scale[place], product = sums[(t + 1) * paths * wide + here];
                    total += product * s;
                    by_g[place] = s * weights[t * edges + e];
                    double share = epsilons[t] >= 0 ? -s * weights[t * edges + e] / rows : 0;
                    by_z[place] = share * s * s * product;
                    constant[place] = share * sums[here];
                }
            if (of_weights) of_weights[t * edges + e] = total;
        }
    free(sums);
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(paths * rows);
        for (i64 row = from; row < to; row++) {
            const T *d = g + row * wide;
            for (i64 t = 0; t < count; t++) {
                if (!out[t]) continue;
                i64 place = (t * paths + row / rows) * wide;
                const T *m = mean + place, *a = by_g + place, *b = by_z + place, *k = constant + place;
                if (shared[t]) {
                    const T *z = terms[t] + row * channels;
                    T *o = out[t] + row * channels;
                    memset(o, 0, channels * sizeof(T));
                    for (i64 e = 0; e < wide; e += channels)
                        for (i64 c = 0; c < channels; c++) o[c] += a[e + c] * d[e + c] + b[e + c] * (z[c] - m[e + c]) + k[e + c];
                } else {
                    const T *z = terms[t] + row * wide;
                    T *o = out[t] + row * wide;
                    for (i64 c = 0; c < wide; c++) o[c] = a[c] * d[c] + b[c] * (z[c] - m[c]) + k[c];
                }
            }
        }
    }
    free(by_g);
    free(by_z);
    free(constant);
}
#undef V
#undef Plan
#undef LANES
#undef ROUND
#undef NEW
#undef ROWS_OF_THREAD
#endif
