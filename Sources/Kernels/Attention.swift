import CKernels
import Glibc

// Legend: B samples, T tokens (queries), S keys, Hq query heads, Hkv key-value heads, d head width.

/// Sizes, mask and memory layout of one attention call.
///
/// Token `i` stands at position `S − T + i`: the keys are those of `S − T` earlier tokens followed by those of this
/// chunk. Consecutive query heads share a key-value head: head `h` uses `h·Hkv/Hq`.
public struct AttentionShape: Sendable, Hashable {
    public var batch: Int
    public var tokens: Int
    public var keys: Int
    public var queryHeads: Int
    public var keyValueHeads: Int
    public var headWidth: Int
    /// A token sees keys at its own position and before.
    public var causal: Bool
    /// A token sees keys less than `window` positions away, itself included; nil: no limit.
    public var window: Int?
    /// Factor of the scores, `headWidth^(−½)` by default.
    public var scale: Float
    /// Floats from one token to the next, and from one sample to the next, in q (and its gradient), k, v and the output.
    public var queryStride: Int
    public var keyStride: Int
    public var valueStride: Int
    public var outputStride: Int
    public var querySampleStride: Int
    public var keySampleStride: Int
    public var valueSampleStride: Int
    public var outputSampleStride: Int

    /// Contiguous `[B, T, Hq, d]` and `[B, S, Hkv, d]`; change the strides for slices of wider buffers.
    public init(
        batch: Int, tokens: Int, keys: Int, queryHeads: Int, keyValueHeads: Int, headWidth: Int, causal: Bool = true,
        window: Int? = nil, scale: Float? = nil
    ) {
        (self.batch, self.tokens, self.keys) = (batch, tokens, keys)
        (self.queryHeads, self.keyValueHeads, self.headWidth) = (queryHeads, keyValueHeads, headWidth)
        (self.causal, self.window) = (causal, window)
        self.scale = scale ?? Float(1 / Double(headWidth).squareRoot())
        let query = queryHeads * headWidth, key = keyValueHeads * headWidth
        (queryStride, keyStride, valueStride, outputStride) = (query, key, key, query)
        (querySampleStride, outputSampleStride) = (tokens * query, tokens * query)
        (keySampleStride, valueSampleStride) = (keys * key, keys * key)
    }

    var group: Int { queryHeads / keyValueHeads }

    func validate(visible: [Int32]?) {
        require(
            batch > 0 && tokens > 0 && keys > 0 && headWidth > 0,
            "Attention: B \(batch), T \(tokens), S \(keys), d \(headWidth); expected all positive")
        require(
            keyValueHeads > 0 && queryHeads > 0 && queryHeads % keyValueHeads == 0,
            "Attention: \(queryHeads) query heads on \(keyValueHeads) key-value heads; expected a multiple")
        require(
            visible != nil || !(causal || window != nil) || keys >= tokens,
            "Attention: \(keys) keys for \(tokens) tokens; expected at least as many where positions matter")
        require(window.map { $0 > 0 } ?? true, "Attention: window \(window ?? 0); expected at least 1")
        guard let visible else { return }
        require(
            visible.count == batch * tokens && visible.allSatisfy { 0 <= $0 && $0 <= keys },
            "Attention: \(visible.count) counts of visible keys, at most \(visible.max() ?? 0); expected \(batch * tokens), of \(keys) keys"
        )
    }

    /// The kernel's view of `heads` query heads on one key-value head; `visible`: of one sample.
    func kernelShape(heads: Int, visible: UnsafePointer<Int32>? = nil) -> ck_attention_shape {
        ck_attention_shape(
            tokens: tokens, keys: keys, group: heads, width: headWidth, past: max(keys - tokens, 0),
            window: window ?? 0, causal: causal ? 1 : 0, visible: visible, scale: scale, q_stride: queryStride,
            k_stride: keyStride, v_stride: valueStride, out_stride: outputStride)
    }

    /// Calls `body` with the kernel's view of one sample.
    func withKernelShape(
        heads: Int, sample: Int, visible: [Int32]?, _ body: (UnsafePointer<ck_attention_shape>) -> Void
    ) {
        guard let visible else { return withUnsafePointer(to: kernelShape(heads: heads), body) }
        visible.withUnsafeBufferPointer {
            withUnsafePointer(to: kernelShape(heads: heads, visible: $0.baseAddress! + sample * tokens), body)
        }
    }
}

/// Softmax attention: causal or full, grouped-query, with a sliding window, with keys of earlier chunks.
///
/// Scores are never stored; the forward keeps the output and one log-sum-exp per row. Work is cut by sample and key-value
/// head, and each is done in a fixed order. A token's output does not depend, to the bit, on how many tokens are
/// computed with it, as long as the first key is the same: whole = chunked = token by token.
public enum Attention {
    /// `output_i = Σ_j softmax_j(scale·q_i·k_j) v_j` over visible `j`; 0 where nothing is visible.
    /// - Parameters:
    ///   - q, output: `[B, T, Hq, d]`.
    ///   - k, v: `[B, S, Hkv, d]`.
    ///   - logSumExp: `[B, Hq, T]`, kept for the backward, in nats.
    ///   - sinks: `[Hq]` or nil: logits of one more key per head whose value is 0.
    ///   - visible: `[B·T]` or nil: how many of the first keys every token sees, instead of the shape's mask. Queries may
    ///     then be any selection of a sequence's tokens.
    public static func forward(
        q: UnsafePointer<Float>, k: UnsafePointer<Float>, v: UnsafePointer<Float>, sinks: UnsafePointer<Float>? = nil,
        visible: [Int32]? = nil, output: UnsafeMutablePointer<Float>, logSumExp: UnsafeMutablePointer<Float>,
        shape: AttentionShape, threads: ThreadPool
    ) {
        shape.validate(visible: visible)
        // Query heads are independent here: with fewer groups than threads, they are dealt out one by one.
        let heads = shape.batch * shape.keyValueHeads < threads.threadCount ? 1 : shape.group
        let perSample = shape.queryHeads / heads
        let floats = withUnsafePointer(to: shape.kernelShape(heads: heads)) { ck_attention_scratch($0, 0) }
        threads.run(shape.batch * perSample) { index, worker in
            let b = index / perSample, head = index % perSample * heads, shared = head / shape.group
            let d = shape.headWidth
            shape.withKernelShape(heads: heads, sample: b, visible: visible) { kernel in
                ck_attention_forward(
                    output + b * shape.outputSampleStride + head * d,
                    logSumExp + (b * shape.queryHeads + head) * shape.tokens,
                    q + b * shape.querySampleStride + head * d, k + b * shape.keySampleStride + shared * d,
                    v + b * shape.valueSampleStride + shared * d, sinks.map { $0 + head }, kernel,
                    threads.scratch(worker: worker, floats: floats))
            }
        }
    }

    /// Gradients of `forward`; overwrites its results. With sinks, call `sinkGradient` afterwards.
    /// - Parameters:
    ///   - dOutput: laid out as the output.
    ///   - dq: laid out as `q`.
    ///   - dk, dv: laid out as `k`, `v`, past keys included: those parts are gradients of earlier chunks.
    ///   - delta: `[B, Hq, T]`, receives `Σ dOutput·output` of each row.
    ///   - visible: as in `forward`.
    public static func backward(
        dOutput: UnsafePointer<Float>, q: UnsafePointer<Float>, k: UnsafePointer<Float>, v: UnsafePointer<Float>,
        visible: [Int32]? = nil, output: UnsafePointer<Float>, logSumExp: UnsafePointer<Float>,
        dq: UnsafeMutablePointer<Float>, dk: UnsafeMutablePointer<Float>, dv: UnsafeMutablePointer<Float>,
        delta: UnsafeMutablePointer<Float>, shape: AttentionShape, threads: ThreadPool
    ) {
        shape.validate(visible: visible)
        let floats = withUnsafePointer(to: shape.kernelShape(heads: shape.group)) { ck_attention_scratch($0, 1) }
        threads.run(shape.batch * shape.keyValueHeads) { index, worker in
            let b = index / shape.keyValueHeads, shared = index % shape.keyValueHeads
            let head = shared * shape.group, d = shape.headWidth
            let query = b * shape.querySampleStride + head * d, key = b * shape.keySampleStride + shared * d
            let value = b * shape.valueSampleStride + shared * d, row = (b * shape.queryHeads + head) * shape.tokens
            let result = b * shape.outputSampleStride + head * d
            shape.withKernelShape(heads: shape.group, sample: b, visible: visible) { kernel in
                ck_attention_backward(
                    dq + query, dk + key, dv + value, delta + row, dOutput + result, output + result,
                    logSumExp + row, q + query, k + key, v + value, kernel,
                    threads.scratch(worker: worker, floats: floats))
            }
        }
    }

    /// `dSinks[h] += −Σ_{b,t} e^{sink − logSumExp}·delta`, `[Hq]`, from the `delta` that `backward` stored.
    public static func sinkGradient(
        sinks: UnsafePointer<Float>, logSumExp: UnsafePointer<Float>, delta: UnsafePointer<Float>,
        addingTo dSinks: UnsafeMutablePointer<Float>, shape: AttentionShape, threads: ThreadPool
    ) {
        threads.run(shape.queryHeads) { head, _ in
            var sum = 0.0
            for b in 0..<shape.batch {
                let start = (b * shape.queryHeads + head) * shape.tokens
                for row in start..<start + shape.tokens {
                    sum -= exp(Double(sinks[head]) - Double(logSumExp[row])) * Double(delta[row])
                }
            }
            dSinks[head] += Float(sum)
        }
    }
}
