/* The CPU kernels of the fused engine, for float and double: rows of channels (N, H, W, C) in memory, C innermost.
 *
 * Each is one pass over memory. The plain torch versions in kernels.py say the same in a few lines and are the oracle of the
 * tests. Work is split among the threads by position alone, so that the same number of threads gives the same bits.
 */
#ifndef T
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef long long i64;
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define SCRATCH (384 * 1024) /* bytes of padded input that a thread holds: inside a second-level cache */
#define BLOCK 64             /* rows that are summed in T before they are added to a double */

typedef struct {
    i64 images, height, width, channels, copies; /* of the input; its channels are repeated `copies` times */
    i64 up;                                      /* zeros stand between its pixels when 2: the gradient of a stride */
    i64 kernel, stride, dilation;
    i64 out_height, out_width;
    i64 rectify; /* the input is max(x, 0) */
    i64 threads;
} Shape;

#define T float
#define NAME(x) x##_float
#include "kernels.c"
#undef T
#undef NAME
#define T double
#define NAME(x) x##_double
#include "kernels.c"

#else
#define V NAME(V)
#define LANES ((i64)(64 / sizeof(T)))
typedef T V __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));

/* Output rows that a thread computes at once. */
static i64 NAME(band)(const Shape *s, i64 pitch) {
    i64 rows = SCRATCH / (pitch * (i64)sizeof(T)) - (s->kernel - 1) * s->dilation;
    return MAX(4, MIN(s->out_height, rows / s->stride));
}

/* Rows first .. first + rows of the padded, repeated input of one image: (rows, out_width.. + 2 pad, wide). */
static void NAME(fill)(const Shape *s, const T *x, T *padded, i64 first, i64 rows, i64 columns, i64 wide) {
    i64 pad = s->dilation * (s->kernel / 2);
    memset(padded, 0, rows * columns * wide * sizeof(T));
    for (i64 row = 0; row < rows; row++) {
        i64 y = first + row - pad;
        if (y < 0 || y % s->up || y / s->up >= s->height) continue;
        for (i64 column = 0; column < s->width; column++) {
            const T *from = x + ((y / s->up) * s->width + column) * s->channels;
            T *to = padded + (row * columns + pad + column * s->up) * wide;
            for (i64 copy = 0; copy < s->copies; copy++, to += s->channels) {
                if (s->rectify)
                    for (i64 c = 0; c < s->channels; c++) to[c] = from[c] > 0 ? from[c] : 0;
                else
                    memcpy(to, from, s->channels * sizeof(T));
            }
        }
    }
}

/* One output row: out[x, :] = sum over taps of padded[i * dilation, x * stride + j * dilation, :] * weight[i, j, :]. */
static inline __attribute__((always_inline)) void NAME(row)(
    const T *p, const T *weight, T *out, i64 width, i64 wide, i64 pitch, i64 kernel, i64 stride, i64 dilation) {
    i64 x = 0;
    for (; x + 4 <= width; x += 4)
        for (i64 g = 0; g < wide; g += LANES) {
            V a = {0}, b = {0}, c = {0}, d = {0};
            for (i64 i = 0; i < kernel; i++)
                for (i64 j = 0; j < kernel; j++) {
                    const T *q = p + i * dilation * pitch + (x * stride + j * dilation) * wide + g;
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
                         *(const V *)(p + i * dilation * pitch + (x * stride + j * dilation) * wide + g);
            *(V *)(out + x * wide + g) = a;
        }
}

static void NAME(any_row)(const Shape *s, const T *p, const T *weight, T *out, i64 wide, i64 pitch) {
    switch (s->kernel * 10 + s->stride) { /* constants where it counts: the taps unroll */
    case 31: NAME(row)(p, weight, out, s->out_width, wide, pitch, 3, 1, s->dilation); break;
    case 51: NAME(row)(p, weight, out, s->out_width, wide, pitch, 5, 1, s->dilation); break;
    default: NAME(row)(p, weight, out, s->out_width, wide, pitch, s->kernel, s->stride, s->dilation);
    }
}

/* x (images, height, width, channels), weight (kernel * kernel, channels * copies) -> depthwise convolution.
 *
 * mask NULL: out (images, out_height, out_width, channels * copies). Otherwise the copies are `merged` sums of channels:
 * out[c] = sum over copies e of out[e * merged + c], zero where mask[c] <= 0: the gradient through a ReLU that all copies share.
 */
void NAME(depthwise)(const Shape *s, const T *x, const T *weight, const T *mask, i64 merged, T *out) {
    i64 channels = s->channels * s->copies, wide = (channels + LANES - 1) / LANES * LANES, taps = s->kernel * s->kernel;
    i64 out_channels = merged ? merged : channels;
    i64 reach = (s->kernel - 1) * s->dilation;
    i64 columns = MAX((s->out_width - 1) * s->stride + reach + 1, (s->width - 1) * s->up + 1 + reach), pitch = columns * wide;
    i64 band = NAME(band)(s, pitch), bands = (s->out_height + band - 1) / band, units = s->images * bands;
    T *weights = aligned_alloc(64, taps * wide * sizeof(T));
    memset(weights, 0, taps * wide * sizeof(T));
    for (i64 tap = 0; tap < taps; tap++) memcpy(weights + tap * wide, weight + tap * channels, channels * sizeof(T));
#pragma omp parallel num_threads(MIN(s->threads, units))
    {
        i64 id = omp_get_thread_num(), n = omp_get_num_threads();
        T *padded = aligned_alloc(64, (((band - 1) * s->stride + reach + 1) * pitch * sizeof(T) + 63) / 64 * 64);
        T *line = aligned_alloc(64, s->out_width * wide * sizeof(T));
        for (i64 unit = units * id / n; unit < units * (id + 1) / n; unit++) {
            i64 image = unit / bands, top = unit % bands * band, rows = MIN(band, s->out_height - top);
            const T *from = x + image * s->height * s->width * s->channels;
            NAME(fill)(s, from, padded, top * s->stride, (rows - 1) * s->stride + reach + 1, columns, wide);
            for (i64 y = 0; y < rows; y++) {
                NAME(any_row)(s, padded + y * s->stride * pitch, weights, line, wide, pitch);
                i64 place = (image * s->out_height + top + y) * s->out_width * out_channels;
                for (i64 column = 0; column < s->out_width; column++) {
                    const T *l = line + column * wide;
                    T *o = out + place + column * out_channels;
                    if (!merged) {
                        memcpy(o, l, channels * sizeof(T));
                        continue;
                    }
                    memcpy(o, l, merged * sizeof(T));
                    for (i64 e = merged; e < channels; e += merged)
                        for (i64 c = 0; c < merged; c++) o[c] += l[e + c];
                    if (mask) {
                        const T *k = mask + place + column * merged;
                        for (i64 c = 0; c < merged; c++) o[c] = k[c] > 0 ? o[c] : 0;
                    }
                }
            }
        }
        free(padded);
        free(line);
    }
    free(weights);
}

static inline __attribute__((always_inline)) void NAME(tap_row)(
    const T *p, const T *d, T *sums, i64 width, i64 wide, i64 kernel, i64 stride, i64 dilation) {
    for (i64 g = 0; g < wide; g += LANES) {
        V a[7];
        for (i64 j = 0; j < kernel; j++) a[j] = (V){0};
        for (i64 x = 0; x < width; x++) {
            V v = *(const V *)(d + x * wide + g);
            for (i64 j = 0; j < kernel; j++) a[j] += v * *(const V *)(p + (x * stride + j * dilation) * wide + g);
        }
        for (i64 j = 0; j < kernel; j++) *(V *)(sums + j * wide + g) += a[j];
    }
}

/* The gradient of the weight (kernel * kernel, channels * copies) of the above: input x, gradient d of its output. */
void NAME(depthwise_weight)(const Shape *s, const T *x, const T *d, T *out) {
    i64 channels = s->channels * s->copies, wide = (channels + LANES - 1) / LANES * LANES, taps = s->kernel * s->kernel;
    i64 reach = (s->kernel - 1) * s->dilation, most = MIN(s->threads, 256);
    i64 columns = MAX((s->out_width - 1) * s->stride, s->width - 1) + reach + 1, pitch = columns * wide;
    i64 band = NAME(band)(s, pitch), bands = (s->out_height + band - 1) / band, units = s->images * bands;
    T *sums = aligned_alloc(64, most * taps * wide * sizeof(T));
    memset(sums, 0, most * taps * wide * sizeof(T));
#pragma omp parallel num_threads(MIN(most, units))
    {
        i64 id = omp_get_thread_num(), n = omp_get_num_threads();
        T *padded = aligned_alloc(64, (((band - 1) * s->stride + reach + 1) * pitch * sizeof(T) + 63) / 64 * 64);
        T *line = aligned_alloc(64, s->out_width * wide * sizeof(T)), *own = sums + id * taps * wide;
        memset(line, 0, s->out_width * wide * sizeof(T));
        for (i64 unit = units * id / n; unit < units * (id + 1) / n; unit++) {
            i64 image = unit / bands, top = unit % bands * band, rows = MIN(band, s->out_height - top);
            const T *from = x + image * s->height * s->width * s->channels;
            NAME(fill)(s, from, padded, top * s->stride, (rows - 1) * s->stride + reach + 1, columns, wide);
            for (i64 y = 0; y < rows; y++) {
                const T *dy = d + (image * s->out_height + top + y) * s->out_width * channels;
                for (i64 column = 0; column < s->out_width; column++)
                    memcpy(line + column * wide, dy + column * channels, channels * sizeof(T));
                for (i64 i = 0; i < s->kernel; i++) {
                    const T *p = padded + (y * s->stride + i * s->dilation) * pitch;
                    T *to = own + i * s->kernel * wide;
                    switch (s->kernel * 10 + s->stride) {
                    case 31: NAME(tap_row)(p, line, to, s->out_width, wide, 3, 1, s->dilation); break;
                    case 51: NAME(tap_row)(p, line, to, s->out_width, wide, 5, 1, s->dilation); break;
                    default: NAME(tap_row)(p, line, to, s->out_width, wide, s->kernel, s->stride, s->dilation);
                    }
                }
            }
        }
        free(padded);
        free(line);
    }
    for (i64 tap = 0; tap < taps; tap++)
        for (i64 c = 0; c < channels; c++) {
            T total = 0;
            for (i64 id = 0; id < most; id++) total += sums[(id * taps + tap) * wide + c];
            out[tap * channels + c] = total;
        }
    free(sums);
}

/* Rows of work of a thread. */
#define ROWS_OF_THREAD(rows) i64 id = omp_get_thread_num(), n = omp_get_num_threads(); i64 from = (rows) * id / n, to = (rows) * (id + 1) / n

/* out[r, e, :] = x[r, e, :] @ weight[e]; x (rows, edges, in), weight (edges, in, out). Four rows share what they load of it. */
void NAME(pointwise)(const T *x, const T *weight, i64 rows, i64 edges, i64 in, i64 out_channels, i64 threads, T *out) {
    i64 wide = (out_channels + LANES - 1) / LANES * LANES;
    T *weights = aligned_alloc(64, edges * in * wide * sizeof(T));
    memset(weights, 0, edges * in * wide * sizeof(T));
    for (i64 line = 0; line < edges * in; line++) memcpy(weights + line * wide, weight + line * out_channels, out_channels * sizeof(T));
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(rows);
        i64 pitch = edges * in;
        for (i64 row = from; row < to; row += 8)
            for (i64 e = 0; e < edges; e++) {
                const T *source = x + row * pitch + e * in;
                T *o = out + (row * edges + e) * out_channels;
                i64 count = MIN(8, to - row);
                for (i64 g = 0; g < out_channels; g += LANES) {
                    const T *w = weights + e * in * wide + g;
                    i64 size = MIN(LANES, out_channels - g) * sizeof(T);
                    if (count == 8) {
                        V a[8] = {0};
                        for (i64 i = 0; i < in; i++) {
                            V v = *(const V *)(w + i * wide);
                            for (i64 k = 0; k < 8; k++) a[k] += v * source[k * pitch + i];
                        }
                        for (i64 k = 0; k < 8; k++) memcpy(o + k * edges * out_channels + g, a + k, size);
                    } else
                        for (i64 k = 0; k < count; k++) {
                            V a = {0};
                            for (i64 i = 0; i < in; i++) a += *(const V *)(w + i * wide) * source[k * pitch + i];
                            memcpy(o + k * edges * out_channels + g, &a, size);
                        }
                }
            }
    }
    free(weights);
}

/* The gradient of its weight: out[e] = x[:, e, :]^T @ d[:, e, :]; d (rows, edges, out). */
void NAME(pointwise_weight)(const T *x, const T *d, i64 rows, i64 edges, i64 in, i64 out_channels, i64 threads, T *out) {
    i64 wide = (out_channels + LANES - 1) / LANES * LANES, size = edges * in * wide;
    T *sums = aligned_alloc(64, threads * size * sizeof(T));
    memset(sums, 0, threads * size * sizeof(T));
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(rows);
        T *own = sums + id * size, *lines = aligned_alloc(64, BLOCK * wide * sizeof(T));
        memset(lines, 0, BLOCK * wide * sizeof(T));
        for (i64 start = from; start < to; start += BLOCK)
            for (i64 e = 0; e < edges; e++) {
                i64 count = MIN(BLOCK, to - start);
                for (i64 k = 0; k < count; k++)
                    memcpy(lines + k * wide, d + ((start + k) * edges + e) * out_channels, out_channels * sizeof(T));
                for (i64 g = 0; g < wide; g += LANES)
                    for (i64 i = 0; i < in; i += 8) {
                        i64 most = MIN(8, in - i);
                        const T *source = x + (start * edges + e) * in + i;
                        V a[8] = {0};
                        if (most == 8)
                            for (i64 k = 0; k < count; k++, source += edges * in) {
                                V v = *(const V *)(lines + k * wide + g);
                                for (i64 j = 0; j < 8; j++) a[j] += v * source[j];
                            }
                        else
                            for (i64 k = 0; k < count; k++, source += edges * in)
                                for (i64 j = 0; j < most; j++) a[j] += *(const V *)(lines + k * wide + g) * source[j];
                        for (i64 j = 0; j < most; j++) *(V *)(own + (e * in + i + j) * wide + g) += a[j];
                    }
            }
        free(lines);
    }
    for (i64 line = 0; line < edges * in; line++)
        for (i64 o = 0; o < out_channels; o++) {
            T total = 0;
            for (i64 id = 0; id < threads; id++) total += sums[id * size + line * wide + o];
            out[line * out_channels + o] = total;
        }
    free(sums);
}

/* x (paths, rows, channels) -> mean and biased variance (paths, channels); sums of differences to the first row. */
void NAME(moments)(const T *x, i64 paths, i64 rows, i64 channels, i64 threads, T *mean, T *variance) {
    double *sums = calloc(threads * 2 * channels, sizeof(double));
    for (i64 path = 0; path < paths; path++) {
        const T *first = x + path * rows * channels;
        memset(sums, 0, threads * 2 * channels * sizeof(double));
#pragma omp parallel num_threads(threads)
        {
            ROWS_OF_THREAD(rows);
            double *own = sums + id * 2 * channels;
            T *block = malloc(2 * channels * sizeof(T));
            for (i64 start = from; start < to; start += BLOCK) {
                memset(block, 0, 2 * channels * sizeof(T));
                for (i64 row = start; row < MIN(to, start + BLOCK); row++) {
                    const T *z = first + row * channels;
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
        for (i64 c = 0; c < channels; c++) {
            double one = 0, two = 0;
            for (i64 id = 0; id < threads; id++) one += sums[id * 2 * channels + c], two += sums[(id * 2 + 1) * channels + c];
            mean[path * channels + c] = first[c] + one / rows;
            double square = two / rows - one / rows * (one / rows);
            variance[path * channels + c] = square > 0 ? square : 0;
        }
    }
    free(sums);
}

/* out = (x - mean) * scale, all (paths, rows, channels) and (paths, channels); out may be x. */
void NAME(normalize)(const T *x, const T *mean, const T *scale, i64 paths, i64 rows, i64 channels, i64 threads, T *out) {
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(paths * rows);
        for (i64 row = from; row < to; row++) {
            const T *z = x + row * channels, *m = mean + row / rows * channels, *s = scale + row / rows * channels;
            T *o = out + row * channels;
            for (i64 c = 0; c < channels; c++) o[c] = (z[c] - m[c]) * s[c];
        }
    }
}

/* A weighted sum of terms: out[r, e, c] = carry[r % carried, e, c] + sum over terms t of
 * scale[t, p, e, c] * (term_t[r, e, c] - mean[t, p, e, c]), where a shared term has channels c alone (the same for all e). */
void NAME(mix)(const T *carry, i64 carried, const T **terms, const i64 *shared, i64 count, const T *scale, const T *mean,
               i64 paths, i64 rows, i64 edges, i64 channels, i64 threads, T *out) {
    i64 wide = edges * channels;
#pragma omp parallel num_threads(threads)
    {
        ROWS_OF_THREAD(paths * rows);
        for (i64 row = from; row < to; row++) {
            T *o = out + row * wide;
            if (carry) memcpy(o, carry + row % carried * wide, wide * sizeof(T));
            else memset(o, 0, wide * sizeof(T));
            for (i64 t = 0; t < count; t++) {
                const T *s = scale + (t * paths + row / rows) * wide, *m = mean + (t * paths + row / rows) * wide;
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
}

/* With the gradient g (rows, e, c) of the above: sums[0, p, e, c] = sum over rows of g, and for each term t
 * sums[1 + t, p, e, c] = sum over rows of g * (term_t - mean). */
void NAME(mix_sums)(const T *g, const T **terms, const i64 *shared, i64 count, const T *mean, i64 paths, i64 rows, i64 edges,
                    i64 channels, i64 threads, T *out) {
    i64 wide = edges * channels, all = (count + 1) * wide;
    double *sums = calloc(threads * all, sizeof(double));
    for (i64 path = 0; path < paths; path++) {
        memset(sums, 0, threads * all * sizeof(double));
#pragma omp parallel num_threads(threads)
        {
            ROWS_OF_THREAD(rows);
            double *own = sums + id * all;
            T *block = malloc(all * sizeof(T));
            for (i64 start = from; start < to; start += BLOCK) {
                memset(block, 0, all * sizeof(T));
                for (i64 row = path * rows + start; row < path * rows + MIN(to, start + BLOCK); row++) {
                    const T *d = g + row * wide;
                    for (i64 c = 0; c < wide; c++) block[c] += d[c];
                    for (i64 t = 0; t < count; t++) {
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
                for (i64 c = 0; c < all; c++) own[c] += block[c];
            }
            free(block);
        }
        for (i64 t = 0; t <= count; t++)
            for (i64 c = 0; c < wide; c++) {
                double total = 0;
                for (i64 id = 0; id < threads; id++) total += sums[id * all + t * wide + c];
                out[(t * paths + path) * wide + c] = total;
            }
    }
    free(sums);
}

/* The gradients of the terms: d_t = by_g[t, p, e, c] * g + by_z[t, p, e, c] * (term_t - mean) + constant[t, p, e, c], for a shared
 * term the sum over e of it. out[t] NULL: not wanted. */
void NAME(mix_terms)(const T *g, const T **terms, const i64 *shared, i64 count, const T *mean, const T *by_g, const T *by_z,
                     const T *constant, i64 paths, i64 rows, i64 edges, i64 channels, i64 threads, T **out) {
    i64 wide = edges * channels;
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
}
#undef V
#undef LANES
#undef ROWS_OF_THREAD
#endif
