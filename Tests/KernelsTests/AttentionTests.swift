import Glibc
import Kernels
import Testing

@Suite struct AttentionTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var batch = 2
        var tokens: Int
        var past = 0
        var heads = 4
        var shared = 2
        var width: Int
        var causal = true
        var window: Int?
        var sinks = false

        var shape: AttentionShape {
            AttentionShape(
                batch: batch, tokens: tokens, keys: past + tokens, queryHeads: heads, keyValueHeads: shared,
                headWidth: width, causal: causal, window: window)
        }
        var testDescription: String {
            "B\(batch)-T\(tokens)-P\(past)-H\(heads)/\(shared)-d\(width)" + (causal ? "-causal" : "")
                + (window.map { "-w\($0)" } ?? "") + (sinks ? "-sinks" : "")
        }
    }

    static let cases = [
        Case(tokens: 1, width: 16), Case(tokens: 7, width: 7), Case(tokens: 63, width: 64),
        Case(tokens: 100, width: 32),
        Case(batch: 1, tokens: 257, heads: 2, shared: 1, width: 128), Case(tokens: 1, past: 100, width: 64),
        Case(tokens: 63, past: 7, width: 40), Case(tokens: 7, past: 257, width: 20, window: 63),
        Case(tokens: 100, past: 63, width: 16, window: 1), Case(tokens: 100, width: 32, causal: false),
        Case(tokens: 100, width: 8, causal: false, window: 9),
        Case(tokens: 65, heads: 6, shared: 2, width: 24, sinks: true),
        Case(batch: 3, tokens: 129, heads: 3, shared: 3, width: 48, window: 40),
    ]

    struct Result { var o, lse, dq, dk, dv, delta: [Float] }

    static func inputs(_ c: Case) -> (q: [Float], k: [Float], v: [Float], g: [Float], sinks: [Float]) {
        let queries = c.batch * c.tokens * c.heads * c.width
        let keys = c.batch * (c.past + c.tokens) * c.shared * c.width
        return (
            randomFloats(queries, seed: 1, scale: 2), randomFloats(keys, seed: 2, scale: 2),
            randomFloats(keys, seed: 3),
            randomFloats(queries, seed: 4), randomFloats(c.heads, seed: 5, scale: 3)
        )
    }

    static func run(_ c: Case, pool: ThreadPool) -> Result {
        let x = inputs(c), rows = c.batch * c.heads * c.tokens
        var r = Result(
            o: zeros(x.q.count), lse: zeros(rows), dq: zeros(x.q.count), dk: zeros(x.k.count), dv: zeros(x.v.count),
            delta: zeros(rows))
        x.sinks.withUnsafeBufferPointer {
            Attention.forward(
                q: x.q, k: x.k, v: x.v, sinks: c.sinks ? $0.baseAddress : nil, output: &r.o, logSumExp: &r.lse,
                shape: c.shape, threads: pool)
        }
        Attention.backward(
            dOutput: x.g, q: x.q, k: x.k, v: x.v, output: r.o, logSumExp: r.lse, dq: &r.dq, dk: &r.dk, dv: &r.dv,
            delta: &r.delta, shape: c.shape, threads: pool)
        return r
    }

    /// The definition, in Double, with gradients by the chain rule.
    static func reference(_ c: Case) -> (o: [Double], dq: [Double], dk: [Double], dv: [Double], dSinks: [Double]) {
        let x = inputs(c), d = c.width, keys = c.past + c.tokens, scale = Double(c.shape.scale)
        var o = [Double](repeating: 0, count: x.q.count), dq = o
        var dk = [Double](repeating: 0, count: x.k.count), dv = dk
        var dSinks = [Double](repeating: 0, count: c.heads)
        for b in 0..<c.batch {
            for h in 0..<c.heads {
                for t in 0..<c.tokens {
                    let qi = ((b * c.tokens + t) * c.heads + h) * d, position = c.past + t
                    let visible = (0..<keys).filter { j in
                        (!c.causal || j <= position) && (c.window.map { abs(position - j) < $0 } ?? true)
                    }
                    let at = visible.map { ((b * keys + $0) * c.shared + h * c.shared / c.heads) * d }
                    let scores = at.map { kj in
                        scale * (0..<d).reduce(0.0) { $0 + Double(x.q[qi + $1]) * Double(x.k[kj + $1]) }
                    }
                    let extra = c.sinks ? [Double(x.sinks[h])] : []
                    let top = (scores + extra).max()!, sum = (scores + extra).reduce(0) { $0 + exp($1 - top) }
                    let p = scores.map { exp($0 - top) / sum }
                    for (p, kj) in zip(p, at) { for e in 0..<d { o[qi + e] += p * Double(x.v[kj + e]) } }
                    let delta = (0..<d).reduce(0.0) { $0 + o[qi + $1] * Double(x.g[qi + $1]) }
                    for (p, kj) in zip(p, at) {
                        let slope = (0..<d).reduce(0.0) { $0 + Double(x.g[qi + $1]) * Double(x.v[kj + $1]) } - delta
                        for e in 0..<d {
                            dv[kj + e] += p * Double(x.g[qi + e])
                            dq[qi + e] += scale * p * slope * Double(x.k[kj + e])
                            dk[kj + e] += scale * p * slope * Double(x.q[qi + e])
                        }
                    }
                    if c.sinks { dSinks[h] -= exp(extra[0] - top) / sum * delta }
                }
            }
        }
        return (o, dq, dk, dv, dSinks)
    }

    @Test(arguments: cases)
    func matchesTheDefinitionForwardAndBackward(c: Case) {
        let got = Self.run(c, pool: onePool), expected = Self.reference(c)
        #expect(relativeError(got.o, expected.o) < 1e-6)
        #expect(relativeError(got.dv, expected.dv) < 1e-6)
        // A single visible key has no score gradient: what remains is rounding.
        if c.window != 1 && c.past + c.tokens > 1 {
            #expect(relativeError(got.dq, expected.dq) < 3e-6)
            #expect(relativeError(got.dk, expected.dk) < 3e-6)
        }
        if c.sinks {
            var dSinks = zeros(c.heads)
            Attention.sinkGradient(
                sinks: Self.inputs(c).sinks, logSumExp: got.lse, delta: got.delta, addingTo: &dSinks, shape: c.shape,
                threads: onePool)
            #expect(relativeError(dSinks, expected.dSinks) < 1e-6)
        }
    }

    @Test(arguments: cases)
    func threadsDoNotShow(c: Case) {
        let one = Self.run(c, pool: onePool), two = Self.run(c, pool: twoPool)
        expectSameBits(one.o, two.o)
        expectSameBits(one.lse, two.lse)
        expectSameBits(one.dq, two.dq)
        expectSameBits(one.dk, two.dk)
        expectSameBits(one.dv, two.dv)
    }

    /// Any cut of the tokens gives the bits of the whole: training in chunks and generating token by token agree.
    @Test(arguments: [1, 7, 64, 100], [nil, 33])
    func chunksEqualTheWhole(chunk: Int, window: Int?) {
        let total = 257, heads = 2, width = 32
        let c = Case(batch: 1, tokens: total, heads: heads, shared: 1, width: width, window: window)
        let x = Self.inputs(c), whole = Self.run(c, pool: onePool), row = heads * width
        var dk = [Double](repeating: 0, count: total * width), dq = zeros(0)
        for start in stride(from: 0, to: total, by: chunk) {
            let tokens = min(chunk, total - start)
            var shape = AttentionShape(
                batch: 1, tokens: tokens, keys: start + tokens, queryHeads: heads, keyValueHeads: 1, headWidth: width,
                window: window)
            shape.keySampleStride = total * width
            let q = Array(x.q[start * row..<(start + tokens) * row]),
                g = Array(x.g[start * row..<(start + tokens) * row])
            var o = zeros(tokens * row), lse = zeros(heads * tokens), delta = lse, dqPart = o
            var dkPart = zeros((start + tokens) * width), dvPart = dkPart
            Attention.forward(
                q: q, k: x.k, v: x.v, output: &o, logSumExp: &lse, shape: shape, threads: onePool)
            expectSameBits(o, Array(whole.o[start * row..<(start + tokens) * row]))
            Attention.backward(
                dOutput: g, q: q, k: x.k, v: x.v, output: o, logSumExp: lse, dq: &dqPart, dk: &dkPart, dv: &dvPart,
                delta: &delta, shape: shape, threads: onePool)
            dq += dqPart
            for i in dkPart.indices { dk[i] += Double(dkPart[i]) }
        }
        expectSameBits(dq, whole.dq)
        #expect(relativeError(whole.dk, dk) < 1e-6)
    }

    /// Counts of visible keys that are those of the causal mask change no bit; a selection of the tokens has the rows of
    /// the whole and, where the others' gradients are zero, the gradients of the whole.
    @Test(arguments: [1, 2]) func aSelectionOfTokens(threadCount: Int) {
        let c = Case(tokens: 150, width: 20), x = Self.inputs(c), row = c.heads * c.width
        let pool = threadCount == 1 ? onePool : twoPool
        func run(_ tokens: [Int], upstream: [Float]) -> Result {
            func rows(_ x: [Float]) -> [Float] {
                var chosen: [Float] = []
                for b in 0..<c.batch {
                    for token in tokens {
                        let start: Int = (b * c.tokens + token) * row
                        chosen += x[start..<start + row]
                    }
                }
                return chosen
            }
            var shape = c.shape
            shape.tokens = tokens.count
            (shape.querySampleStride, shape.outputSampleStride) = (tokens.count * row, tokens.count * row)
            let q = rows(x.q), g = rows(upstream), visible = (0..<c.batch).flatMap { _ in tokens.map { Int32($0 + 1) } }
            var r = Result(
                o: zeros(q.count), lse: zeros(q.count / c.width), dq: zeros(q.count), dk: zeros(x.k.count),
                dv: zeros(x.v.count), delta: zeros(q.count / c.width))
            Attention.forward(
                q: q, k: x.k, v: x.v, visible: visible, output: &r.o, logSumExp: &r.lse, shape: shape, threads: pool)
            Attention.backward(
                dOutput: g, q: q, k: x.k, v: x.v, visible: visible, output: r.o, logSumExp: r.lse, dq: &r.dq,
                dk: &r.dk, dv: &r.dv, delta: &r.delta, shape: shape, threads: pool)
            return r
        }
        let causal = Self.run(c, pool: onePool), all = run(Array(0..<c.tokens), upstream: x.g)
        for (a, b) in [(causal.o, all.o), (causal.dq, all.dq), (causal.dk, all.dk), (causal.dv, all.dv)] {
            expectSameBits(a, b)
        }
        let chosen = (0..<c.tokens).filter { $0 % 7 % 3 == 1 }
        var upstream = zeros(x.g.count)
        for b in 0..<c.batch {
            for token in chosen {
                let start: Int = (b * c.tokens + token) * row
                for i in start..<start + row { upstream[i] = x.g[i] }
            }
        }
        let whole = run(Array(0..<c.tokens), upstream: upstream), some = run(chosen, upstream: upstream)
        for b in 0..<c.batch {
            for (i, token) in chosen.enumerated() {
                let at = (b * c.tokens + token) * row, part = (b * chosen.count + i) * row
                expectSameBits(Array(whole.o[at..<at + row]), Array(some.o[part..<part + row]))
                expectSameBits(Array(whole.dq[at..<at + row]), Array(some.dq[part..<part + row]))
            }
        }
        #expect(relativeError(some.dk, whole.dk.map(Double.init)) < 1e-6)
        #expect(relativeError(some.dv, whole.dv.map(Double.init)) < 1e-6)
    }

    @Test func windowOfOneIsTheValueAndEqualKeysAverage() {
        let c = Case(batch: 1, tokens: 20, heads: 1, shared: 1, width: 8, window: 1)
        expectSameBits(Self.run(c, pool: onePool).o, Self.inputs(c).v)
        let tokens = 70, v = randomFloats(tokens, seed: 1), equal = [Float](repeating: 1, count: tokens)
        var o = zeros(tokens), lse = zeros(tokens)
        Attention.forward(
            q: equal, k: equal, v: v, output: &o, logSumExp: &lse,
            shape: AttentionShape(
                batch: 1, tokens: tokens, keys: tokens, queryHeads: 1, keyValueHeads: 1, headWidth: 1),
            threads: onePool)
        var sum = 0.0
        let running = v.enumerated().map { index, value in
            sum += Double(value)
            return sum / Double(index + 1)
        }
        #expect(relativeError(o, running) < 1e-6)
    }

    @Test func nanReachesItsSuccessorsAndLargeScoresStayFinite() {
        let tokens = 100, width = 16
        let shape = AttentionShape(
            batch: 1, tokens: tokens, keys: tokens, queryHeads: 1, keyValueHeads: 1, headWidth: width)
        let q = randomFloats(tokens * width, seed: 1, scale: 100)
        var k = randomFloats(tokens * width, seed: 2, scale: 100)
        let v = randomFloats(tokens * width, seed: 3)
        var o = zeros(tokens * width), lse = zeros(tokens)
        Attention.forward(q: q, k: k, v: v, output: &o, logSumExp: &lse, shape: shape, threads: onePool)
        #expect((o + lse).allSatisfy { $0.isFinite })
        k[50 * width + 3] = .nan
        Attention.forward(q: q, k: k, v: v, output: &o, logSumExp: &lse, shape: shape, threads: onePool)
        #expect(o[..<(50 * width)].allSatisfy { $0.isFinite } && o[(50 * width)...].allSatisfy { $0.isNaN })
    }
}
