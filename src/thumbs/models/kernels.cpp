// What lies between the decoder's products, for CPUs: norm, SwiGLU, rotary attention, drawing a token.
//
// operators.py holds the same formulas in torch, which tests compare with these. Numbers are read as float or bfloat16 and computed in
// float. A row's bits depend on that row alone: sums run in one order whatever else is computed, and no two threads add to one number.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr long FEW = 1 << 15;  // numbers that one thread has read before a second one has woken up

// Floats in a register. Never more: gcc does not split a wider vector between registers, it goes through memory.
#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * W)));
typedef uint16_t bf16;
typedef bf16 halves __attribute__((vector_size(2 * W), aligned(2), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<vec*>(p) = x; }
inline vec all(float x) { return vec{} + x; }

inline vec load(const bf16* p) {
    return reinterpret_cast<vec>(__builtin_convertvector(*reinterpret_cast<const halves*>(p), ints) << 16);
}
inline void store(bf16* p, vec x) {
    ints bits = reinterpret_cast<ints>(x);
    ints even = bits + 0x7fff + ((bits >> 16) & 1);  // to the nearest, ties to even
    ints is_number = x == x;
    even = (even & is_number) | (0x7fc00000 & ~is_number);
    *reinterpret_cast<halves*>(p) = __builtin_convertvector(even >> 16, halves);
}

inline float sum(vec x) {
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

// e^x, relative error below 2e-7; x below -87 gives 0 (Cephes: x = n ln 2 + r, a polynomial in r).
inline vec exp(vec x) {
    ints tiny = x < -87.0f;
    vec clipped = x > 88.0f ? all(88.0f) : x;
    clipped = x < -87.0f ? all(-87.0f) : clipped;
    vec shifted = clipped * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: rounds to an integer
    vec n = shifted - 12582912.0f;
    vec r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ints power = (reinterpret_cast<ints>(shifted) - reinterpret_cast<ints>(all(12582912.0f)) + 127) << 23;
    vec result = p * reinterpret_cast<vec>(power);
    return reinterpret_cast<vec>(reinterpret_cast<ints>(result) & ~tiny);
}

// C [m, n] (+)= A [m, k] B [k, n]. A has strides of its own; n is a multiple of W. R rows by S vectors of C stay in registers.
template <int R, int S, class T>
inline void tile(const float* a, long row, long col, const T* b, long ldb, float* c, long ldc, int k, bool add) {
    vec acc[R][S];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < S; j++) acc[i][j] = add ? load(c + i * ldc + j * W) : vec{};
    for (int t = 0; t < k; t++) {
        vec x[S];
        for (int j = 0; j < S; j++) x[j] = load(b + t * ldb + j * W);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < S; j++) acc[i][j] += all(a[i * row + t * col]) * x[j];
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < S; j++) store(c + i * ldc + j * W, acc[i][j]);
}
template <int R, class T>
inline void product_rows(const float* a, long row, long col, const T* b, long ldb, float* c, long ldc, int n, int k, bool add) {
    int j = 0;
    for (; j + 2 * W <= n; j += 2 * W) tile<R, 2>(a, row, col, b + j, ldb, c + j, ldc, k, add);
    if (j < n) tile<R, 1>(a, row, col, b + j, ldb, c + j, ldc, k, add);
}
template <class T>
void product(const float* a, long row, long col, const T* b, long ldb, float* c, long ldc, int m, int n, int k, bool add) {
    int i = 0;
    for (; i + 4 <= m; i += 4) product_rows<4>(a + i * row, row, col, b, ldb, c + i * ldc, ldc, n, k, add);
    a += i * row, c += i * ldc;
    if (m - i == 3) product_rows<3>(a, row, col, b, ldb, c, ldc, n, k, add);
    if (m - i == 2) product_rows<2>(a, row, col, b, ldb, c, ldc, n, k, add);
    if (m - i == 1) product_rows<1>(a, row, col, b, ldb, c, ldc, n, k, add);
}

// Softmax of the first `count` of `wide` scores (a multiple of W), in place; the others become 0.
inline void softmax(float* row, int count, int wide) {
    for (int j = count; j < wide; j++) row[j] = -INFINITY;
    vec top = all(-INFINITY), total{};
    for (int j = 0; j < wide; j += W) top = load(row + j) > top ? load(row + j) : top;
    float most = -INFINITY;
    for (int i = 0; i < W; i++) most = std::max(most, top[i]);
    for (int j = 0; j < wide; j += W) {
        vec e = exp(load(row + j) - most);
        store(row + j, e);
        total += e;
    }
    float inverse = 1.0f / sum(total);
    for (int j = 0; j < wide; j += W) store(row + j, load(row + j) * inverse);
}

// Rotates one head of C numbers into out: (a, b) → (a cos - b sin, b cos + a sin), the halves as Hugging Face lays them out.
template <class T>
inline void rotate(const T* x, const float* cos, const float* sin, float* out, int C) {
    int h = C / 2;
    for (int i = 0; i < h; i += W) {
        vec a = load(x + i), b = load(x + h + i), c = load(cos + i), s = load(sin + i);
        store(out + i, a * c - b * s);
        store(out + h + i, b * c + a * s);
    }
}
// The transpose of it, for gradients.
template <class T>
inline void unrotate(const float* g, const float* cos, const float* sin, T* out, int C) {
    int h = C / 2;
    for (int i = 0; i < h; i += W) {
        vec a = load(g + i), b = load(g + h + i), c = load(cos + i), s = load(sin + i);
        store(out + i, a * c + b * s);
        store(out + h + i, b * c - a * s);
    }
}

template <class T>
void norm(const T* x, const T* weight, T* y, float* scale, long N, int D, float eps) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long n = 0; n < N; n++) {
        const T* row = x + n * D;
        vec squares{};
        for (int i = 0; i < D; i += W) squares += load(row + i) * load(row + i);
        float s = 1.0f / std::sqrt(sum(squares) / D + eps);
        scale[n] = s;
        for (int i = 0; i < D; i += W) store(y + n * D + i, load(row + i) * s * load(weight + i));
    }
}

// d_x = s (g w - x s² mean(g w x)); d_w, where wanted, is one row a thread block, summed by the caller.
template <class T>
void norm_backward(const T* g, const T* x, const T* weight, const float* scale, T* dx, float* dw, long N, int D, int blocks) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (int block = 0; block < blocks; block++) {
        float* mine = dw ? dw + long(block) * D : nullptr;
        for (long n = N * block / blocks; n < N * (block + 1) / blocks; n++) {
            const T *gn = g + n * D, *xn = x + n * D;
            float s = scale[n];
            vec dot{};
            for (int i = 0; i < D; i += W) dot += load(gn + i) * load(weight + i) * load(xn + i);
            float pull = sum(dot) / D * s * s;
            for (int i = 0; i < D; i += W) {
                vec gi = load(gn + i), xi = load(xn + i);
                store(dx + n * D + i, (gi * load(weight + i) - xi * pull) * s);
                if (mine) store(mine + i, load(mine + i) + gi * xi * s);
            }
        }
    }
}

// y = silu(gate) · up of rows [gate, up].
template <class T>
void gated(const T* x, T* y, long N, int D) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long n = 0; n < N; n++)
        for (int i = 0; i < D; i += W) {
            vec gate = load(x + n * 2 * D + i), up = load(x + n * 2 * D + D + i);
            store(y + n * D + i, gate * up / (1.0f + exp(-gate)));
        }
}
template <class T>
void gated_backward(const T* g, const T* x, T* dx, long N, int D) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long n = 0; n < N; n++)
        for (int i = 0; i < D; i += W) {
            vec gate = load(x + n * 2 * D + i), up = load(x + n * 2 * D + D + i), gi = load(g + n * D + i);
            vec sigma = 1.0f / (1.0f + exp(-gate));
            store(dx + n * 2 * D + i, gi * up * sigma * (1.0f + gate * (1.0f - sigma)));
            store(dx + n * 2 * D + D + i, gi * gate * sigma);
        }
}

// Segments of packed tokens as a forest: segment s holds the tokens start[s] … start[s + 1] - 1 and sees keys[first[s]] …
// keys[first[s + 1] - 1], its own tokens last. Segments of one tree stand side by side; tree t begins at segment trees[t].
struct Forest {
    const int64_t *start, *first, *keys, *trees;
    int count;
};
struct Heads {
    int query, key, C;
    int width() const { return (query + 2 * key) * C; }
    int group() const { return query / key; }
};

constexpr int BLOCK = 32;  // queries whose scores exist at a time

// What the queries of one segment meet at one key head: rotated keys and values as rows, and both as columns.
struct Seen {
    int count, padded;
    std::vector<float> k, v, kt, vt;

    template <class T>
    void gather(const T* x, const float* cos, const float* sin, const Forest& f, int s, const Heads& h, int head, bool backward) {
        count = int(f.first[s + 1] - f.first[s]);
        padded = (count + W - 1) / W * W;
        k.assign(long(count) * h.C, 0);
        v.assign(long(count) * h.C, 0);
        kt.assign(long(padded) * h.C, 0);
        if (backward) vt.assign(long(padded) * h.C, 0);
        for (int j = 0; j < count; j++) {
            long n = f.keys[f.first[s] + j];
            const T* row = x + n * h.width() + (h.query + head) * h.C;
            rotate(row, cos + n * h.C, sin + n * h.C, &k[long(j) * h.C], h.C);
            for (int i = 0; i < h.C; i += W) store(&v[long(j) * h.C + i], load(row + h.key * h.C + i));
            for (int i = 0; i < h.C; i++) kt[long(i) * padded + j] = k[long(j) * h.C + i];
            if (backward)
                for (int i = 0; i < h.C; i++) vt[long(i) * padded + j] = v[long(j) * h.C + i];
        }
    }
};

// Softmax weights [rows, padded] of queries q [rows, C], the first of which sees `visible` keys and each next one more.
void weights_of(const float* q, const Seen& seen, int rows, int visible, int C, float* p) {
    int wide = (visible + rows - 1 + W - 1) / W * W;
    product(q, C, 1, seen.kt.data(), seen.padded, p, seen.padded, rows, wide, C, false);
    for (int r = 0; r < rows; r++) softmax(p + long(r) * seen.padded, visible + r, wide);
}

template <class T>
void attend(const T* x, const float* cos, const float* sin, T* out, const Forest& f, const Heads& h) {
    float scale = 1.0f / std::sqrt(float(h.C));
    int segments = int(f.trees[f.count]);
#pragma omp parallel if (f.first[segments] * h.width() > FEW)
    {
        Seen seen;
        std::vector<float> q(BLOCK * h.C), o(BLOCK * h.C), p;
#pragma omp for schedule(dynamic)
        for (int task = 0; task < segments * h.key; task++) {
            int s = task / h.key, head = task % h.key;
            seen.gather(x, cos, sin, f, s, h, head, false);
            p.resize(long(BLOCK) * seen.padded);
            long own = f.start[s + 1] - f.start[s], before = seen.count - own;
            for (int g = head * h.group(); g < (head + 1) * h.group(); g++)
                for (long begin = 0; begin < own; begin += BLOCK) {
                    int rows = int(std::min<long>(BLOCK, own - begin)), visible = int(before + begin) + 1;
                    for (int r = 0; r < rows; r++) {
                        long n = f.start[s] + begin + r;
                        rotate(x + n * h.width() + g * h.C, cos + n * h.C, sin + n * h.C, &q[r * h.C], h.C);
                    }
                    for (auto& value : q) value *= scale;
                    weights_of(q.data(), seen, rows, visible, h.C, p.data());
                    product(p.data(), seen.padded, 1, seen.v.data(), h.C, o.data(), h.C, rows, h.C, visible + rows - 1, false);
                    for (int r = 0; r < rows; r++)
                        for (int i = 0; i < h.C; i += W)
                            store(out + ((f.start[s] + begin + r) * h.query + g) * h.C + i, load(&o[r * h.C + i]));
                }
        }
    }
}

template <class T>
void attend_backward(const T* grad, const T* x, const float* cos, const float* sin, T* dx, const Forest& f, const Heads& h) {
    float scale = 1.0f / std::sqrt(float(h.C));
#pragma omp parallel if (f.first[f.trees[f.count]] * h.width() > FEW)
    {
        Seen seen;
        std::vector<float> q(BLOCK * h.C), go(BLOCK * h.C), dq(BLOCK * h.C), p, dp, dk, dv, tree_k, tree_v;
#pragma omp for schedule(dynamic)
        for (int task = 0; task < f.count * h.key; task++) {
            int tree = task / h.key, head = task % h.key;
            long root = f.start[f.trees[tree]], tokens = f.start[f.trees[tree + 1]] - root;
            tree_k.assign(tokens * h.C, 0);
            tree_v.assign(tokens * h.C, 0);
            for (int s = int(f.trees[tree]); s < f.trees[tree + 1]; s++) {
                seen.gather(x, cos, sin, f, s, h, head, true);
                p.resize(long(BLOCK) * seen.padded);
                dp.resize(long(BLOCK) * seen.padded);
                dk.assign(long(seen.count) * h.C, 0);
                dv.assign(long(seen.count) * h.C, 0);
                long own = f.start[s + 1] - f.start[s], before = seen.count - own;
                for (int g = head * h.group(); g < (head + 1) * h.group(); g++)
                    for (long begin = 0; begin < own; begin += BLOCK) {
                        int rows = int(std::min<long>(BLOCK, own - begin)), visible = int(before + begin) + 1;
                        int most = visible + rows - 1, wide = (most + W - 1) / W * W;
                        for (int r = 0; r < rows; r++) {
                            long n = f.start[s] + begin + r;
                            rotate(x + n * h.width() + g * h.C, cos + n * h.C, sin + n * h.C, &q[r * h.C], h.C);
                            for (int i = 0; i < h.C; i += W) store(&go[r * h.C + i], load(grad + (n * h.query + g) * h.C + i));
                        }
                        for (auto& value : q) value *= scale;
                        weights_of(q.data(), seen, rows, visible, h.C, p.data());
                        product(p.data(), 1, seen.padded, go.data(), h.C, dv.data(), h.C, most, h.C, rows, true);
                        product(go.data(), h.C, 1, seen.vt.data(), seen.padded, dp.data(), seen.padded, rows, wide, h.C, false);
                        for (int r = 0; r < rows; r++) {  // d_score = p (d_p - Σ p d_p)
                            float *pr = &p[long(r) * seen.padded], *dr = &dp[long(r) * seen.padded];
                            vec dot{};
                            for (int j = 0; j < wide; j += W) dot += load(pr + j) * load(dr + j);
                            float mean = sum(dot);
                            for (int j = 0; j < wide; j += W) store(dr + j, load(pr + j) * (load(dr + j) - mean));
                        }
                        product(dp.data(), seen.padded, 1, seen.k.data(), h.C, dq.data(), h.C, rows, h.C, most, false);
                        product(dp.data(), 1, seen.padded, q.data(), h.C, dk.data(), h.C, most, h.C, rows, true);
                        for (int r = 0; r < rows; r++) {
                            long n = f.start[s] + begin + r;
                            for (int i = 0; i < h.C; i++) dq[r * h.C + i] *= scale;
                            unrotate(&dq[r * h.C], cos + n * h.C, sin + n * h.C, dx + n * h.width() + g * h.C, h.C);
                        }
                    }
                for (int j = 0; j < seen.count; j++) {
                    long n = f.keys[f.first[s] + j] - root;
                    for (int i = 0; i < h.C; i += W) {
                        store(&tree_k[n * h.C + i], load(&tree_k[n * h.C + i]) + load(&dk[long(j) * h.C + i]));
                        store(&tree_v[n * h.C + i], load(&tree_v[n * h.C + i]) + load(&dv[long(j) * h.C + i]));
                    }
                }
            }
            for (long t = 0; t < tokens; t++) {
                long n = root + t;
                T* row = dx + n * h.width() + (h.query + head) * h.C;
                unrotate(&tree_k[t * h.C], cos + n * h.C, sin + n * h.C, row, h.C);
                for (int i = 0; i < h.C; i += W) store(row + h.key * h.C + i, load(&tree_v[t * h.C + i]));
            }
        }
    }
}

// One more token a row: rotates its query and key, puts key and value into the caches [B, K, L, C] at length[b] - 1, attends.
template <class T>
void decode(const T* x, const float* cos, const float* sin, T* keys, T* values, const int64_t* length, T* out, int B, int L, const Heads& h) {
    float scale = 1.0f / std::sqrt(float(h.C));
    long padded = (L + W - 1) / W * W;
#pragma omp parallel if (long(B) * L * h.key * h.C > FEW)
    {
        std::vector<float> q(h.group() * h.C), k(h.C), p(long(h.group()) * padded), o(h.group() * h.C);
#pragma omp for schedule(static)
        for (int task = 0; task < B * h.key; task++) {
            int b = task / h.key, head = task % h.key, count = int(length[b]);
            const T* row = x + long(b) * h.width();
            T *kept_k = keys + long(task) * L * h.C, *kept_v = values + long(task) * L * h.C;
            rotate(row + (h.query + head) * h.C, cos + long(b) * h.C, sin + long(b) * h.C, k.data(), h.C);
            for (int i = 0; i < h.C; i += W) {
                store(kept_k + long(count - 1) * h.C + i, load(&k[i]));
                store(kept_v + long(count - 1) * h.C + i, load(row + (h.query + h.key + head) * h.C + i));
            }
            for (int g = 0; g < h.group(); g++)
                rotate(row + (head * h.group() + g) * h.C, cos + long(b) * h.C, sin + long(b) * h.C, &q[g * h.C], h.C);
            for (auto& value : q) value *= scale;
            for (int j = 0; j < count; j++)
                for (int g = 0; g < h.group(); g++) {
                    vec dot{};
                    for (int i = 0; i < h.C; i += W) dot += load(&q[g * h.C + i]) * load(kept_k + long(j) * h.C + i);
                    p[g * padded + j] = sum(dot);
                }
            for (int g = 0; g < h.group(); g++) softmax(&p[g * padded], count, (count + W - 1) / W * W);
            product(p.data(), padded, 1, kept_v, h.C, o.data(), h.C, h.group(), h.C, count, false);
            for (int g = 0; g < h.group(); g++)
                for (int i = 0; i < h.C; i += W)
                    store(out + (long(b) * h.query + head * h.group() + g) * h.C + i, load(&o[g * h.C + i]));
        }
    }
}

// The token where the distribution function of softmax(logits) passes u, and its logprob. Sums run over blocks of 256, then inside one.
void draw(const float* logits, const float* u, int64_t* token, float* logprob, int B, int V, float temperature) {
    constexpr int PIECE = 256;
    float scale = 1.0f / temperature;
#pragma omp parallel for schedule(static) if (long(B) * V > FEW)
    for (int b = 0; b < B; b++) {
        const float* row = logits + long(b) * V;
        vec top = all(-INFINITY);
        int even = V / W * W;
        for (int j = 0; j < even; j += W) top = load(row + j) > top ? load(row + j) : top;
        float most = -INFINITY;
        for (int i = 0; i < W; i++) most = std::max(most, top[i]);
        for (int j = even; j < V; j++) most = std::max(most, row[j]);
        auto weight = [&](int j) { return exp(all((row[j] - most) * scale))[0]; };
        std::vector<double> upto;
        double total = 0;
        for (int begin = 0; begin < V; begin += PIECE) {
            int end = std::min(begin + PIECE, V), j = begin;
            vec part{};
            for (; j + W <= end; j += W) part += exp((load(row + j) - most) * scale);
            total += sum(part);
            for (; j < end; j++) total += weight(j);
            upto.push_back(total);
        }
        double aim = double(u[b]) * total;
        int piece = int(std::upper_bound(upto.begin(), upto.end() - 1, aim) - upto.begin());
        double reached = piece ? upto[piece - 1] : 0;
        int chosen = piece * PIECE;
        for (int j = chosen; j < std::min(piece * PIECE + PIECE, V); j++) {
            float w = weight(j);
            if (w > 0) chosen = j;  // rounding can point past the last token with weight
            reached += w;
            if (reached > aim) break;
        }
        token[b] = chosen;
        logprob[b] = (row[chosen] - most) * scale - float(std::log(total));
    }
}

}  // namespace

extern "C" {

// Whether this processor has the instructions that the compiler was allowed to use.
int supported() {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

typedef const void* In;
typedef void* Out;
typedef const int64_t* Index;

// Each kernel for tensors of float and of bfloat16; angles, scales and gradients of weights are always float.
#define BOTH(name, parameters, ...)                             \
    void name##_float32 parameters { typedef float T; __VA_ARGS__; } \
    void name##_bfloat16 parameters { typedef bf16 T; __VA_ARGS__; }

BOTH(rms_norm, (In x, In weight, Out y, float* scale, long N, long D, float eps),
     norm((const T*)x, (const T*)weight, (T*)y, scale, N, D, eps))
BOTH(rms_norm_backward, (In g, In x, In weight, const float* scale, Out dx, float* dw, long N, long D, long blocks),
     norm_backward((const T*)g, (const T*)x, (const T*)weight, scale, (T*)dx, dw, N, D, blocks))
BOTH(swiglu, (In x, Out y, long N, long D), gated((const T*)x, (T*)y, N, D))
BOTH(swiglu_backward, (In g, In x, Out dx, long N, long D), gated_backward((const T*)g, (const T*)x, (T*)dx, N, D))
BOTH(attention,
     (In x, const float* cos, const float* sin, Out y, Index start, Index first, Index keys, Index trees, long count, long H, long K, long C),
     attend((const T*)x, cos, sin, (T*)y, {start, first, keys, trees, int(count)}, {int(H), int(K), int(C)}))
BOTH(attention_backward,
     (In g, In x, const float* cos, const float* sin, Out dx, Index start, Index first, Index keys, Index trees, long count, long H, long K,
      long C),
     attend_backward((const T*)g, (const T*)x, cos, sin, (T*)dx, {start, first, keys, trees, int(count)}, {int(H), int(K), int(C)}))
BOTH(cached_attention,
     (In x, const float* cos, const float* sin, Out keys, Out values, Index length, Out y, long B, long L, long H, long K, long C),
     decode((const T*)x, cos, sin, (T*)keys, (T*)values, length, (T*)y, int(B), int(L), {int(H), int(K), int(C)}))

void draw_float32(const float* logits, const float* u, int64_t* token, float* logprob, long B, long V, float temperature) {
    draw(logits, u, token, logprob, int(B), int(V), temperature);
}
}
