// Collective operations, written once over point-to-point messages on a channel of their own. MPI's own are not
// used, because they fix no order of summation, spin while they wait, and have no deadline.
//
// Every function here is collective: all ranks call it, in the same order.

private enum CollectiveTag: Int {
    case broadcast, gatherLength, gather, contribution, result
    case barrier  // the last one: barrier rounds count up from it
}

/// Sums larger than this go through owners (see `sum`), smaller ones through rank 0.
private let ownedSumBytes = 32 * 1024
/// Elements summed at a time, which bounds the scratch memory.
private let sumBlockElements = 4 << 20

extension Communicator {
    private func sendCollective(
        _ bytes: UnsafeRawBufferPointer, to peer: Int, _ tag: Int, _ file: String, _ line: Int
    ) throws(CommunicationError) -> Request {
        try begin(
            .send, UnsafeMutableRawBufferPointer(mutating: bytes), peer: peer, tag: tag, channel: .collective, file,
            line)
    }

    private func receiveCollective(
        into buffer: UnsafeMutableRawBufferPointer, from peer: Int, _ tag: Int, _ file: String, _ line: Int
    ) throws(CommunicationError) -> Request {
        try begin(.receive, buffer, peer: peer, tag: tag, channel: .collective, file, line)
    }

    /// Returns once every rank has called it. ⌈log₂ size⌉ rounds (Hensgen, Finkel and Manber's dissemination barrier).
    public func barrier(file: String = #fileID, line: Int = #line) throws(CommunicationError) {
        var distance = 1
        var tag = CollectiveTag.barrier.rawValue
        while distance < size {
            let none = UnsafeMutableRawBufferPointer(start: nil, count: 0)
            let received = try receiveCollective(into: none, from: (rank + size - distance) % size, tag, file, line)
            let sent = try sendCollective(UnsafeRawBufferPointer(none), to: (rank + distance) % size, tag, file, line)
            try Request.waitAll([received, sent])
            distance *= 2
            tag += 1
        }
    }

    /// Copies `bytes` of rank `root` to all ranks, down a binomial tree. The length must be the same everywhere.
    public func broadcast(
        _ bytes: UnsafeMutableRawBufferPointer, root: Int, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) {
        let tag = CollectiveTag.broadcast.rawValue
        let position = (rank + size - root) % size  // root is position 0
        var distance = 1
        while distance <= position { distance *= 2 }
        if position > 0 {
            let parent = position - distance / 2
            try receiveCollective(into: bytes, from: (parent + root) % size, tag, file, line).wait()
        }
        var sent: [Request] = []
        while position + distance < size {
            let child = (position + distance + root) % size
            sent.append(try sendCollective(UnsafeRawBufferPointer(bytes), to: child, tag, file, line))
            distance *= 2
        }
        try Request.waitAll(sent)
    }

    /// Replaces `values` on every rank by the element-wise sum over ranks, added in rank order: the result is bitwise
    /// the same on every rank, and the same as a plain loop over ranks 0, 1, 2... The count must be the same everywhere.
    public func sum(
        _ values: UnsafeMutableBufferPointer<Float>, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) {
        try sumInRankOrder(values, file, line)
    }

    /// As the `Float` form.
    public func sum(
        _ values: UnsafeMutableBufferPointer<Double>, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) {
        try sumInRankOrder(values, file, line)
    }

    /// The sum over ranks, in rank order.
    public func sum(_ value: Double, file: String = #fileID, line: Int = #line) throws(CommunicationError) -> Double {
        var total = 0.0
        for (index, part) in try allGather(value, file: file, line: line).enumerated() {
            total = index == 0 ? part : total + part
        }
        return total
    }

    /// The greatest value of any rank; NaN if any rank has NaN.
    public func maximum(_ value: Double, file: String = #fileID, line: Int = #line) throws(CommunicationError) -> Double
    {
        try allGather(value, file: file, line: line).reduce(-.infinity) { $1.isNaN || $1 > $0 ? $1 : $0 }
    }

    /// Whether any rank says so; every rank gets the same answer.
    public func any(_ condition: Bool, file: String = #fileID, line: Int = #line) throws(CommunicationError) -> Bool {
        try maximum(condition ? 1 : 0, file: file, line: line) > 0
    }

    /// Every rank's value, by rank.
    public func allGather(
        _ value: Double, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) -> [Double] {
        let blobs = try allGather(withUnsafeBytes(of: value.bitPattern) { Array($0) }, file: file, line: line)
        return blobs.map { blob in Double(bitPattern: blob.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }) }
    }

    /// Every rank's bytes, by rank, on `root`; nil elsewhere. Lengths may differ.
    public func gather(
        _ bytes: [UInt8], root: Int, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) -> [[UInt8]]? {
        var lengths = [Int](repeating: 0, count: size)
        var mine = bytes
        guard rank == root else {
            lengths[0] = bytes.count
            try withMutableBytes(&lengths) { buffer throws(CommunicationError) in
                let length = UnsafeRawBufferPointer(rebasing: buffer[0..<MemoryLayout<Int>.size])
                try sendCollective(length, to: root, CollectiveTag.gatherLength.rawValue, file, line).wait()
            }
            try withMutableBytes(&mine) { buffer throws(CommunicationError) in
                try sendCollective(UnsafeRawBufferPointer(buffer), to: root, CollectiveTag.gather.rawValue, file, line)
                    .wait()
            }
            return nil
        }
        try withMutableBytes(&lengths) { buffer throws(CommunicationError) in
            var received: [Request] = []
            for peer in 0..<size where peer != root {
                let start = peer * MemoryLayout<Int>.size
                let slot = UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + MemoryLayout<Int>.size])
                received.append(
                    try receiveCollective(into: slot, from: peer, CollectiveTag.gatherLength.rawValue, file, line))
            }
            try Request.waitAll(received)
        }
        lengths[root] = bytes.count
        var parts: [[UInt8]] = []
        for peer in 0..<size {
            if peer == root {
                parts.append(bytes)
                continue
            }
            var part = [UInt8](repeating: 0, count: lengths[peer])
            try withMutableBytes(&part) { buffer throws(CommunicationError) in
                try receiveCollective(into: buffer, from: peer, CollectiveTag.gather.rawValue, file, line).wait()
            }
            parts.append(part)
        }
        return parts
    }

    /// Every rank's bytes, by rank, on every rank. Lengths may differ.
    public func allGather(
        _ bytes: [UInt8], file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) -> [[UInt8]] {
        let parts = try gather(bytes, root: 0, file: file, line: line)
        var lengths = parts.map { $0.map(\.count) } ?? [Int](repeating: 0, count: size)
        try withMutableBytes(&lengths) { buffer throws(CommunicationError) in
            try broadcast(buffer, root: 0, file: file, line: line)
        }
        var joined = parts.map { Array($0.joined()) } ?? [UInt8](repeating: 0, count: lengths.reduce(0, +))
        try withMutableBytes(&joined) { buffer throws(CommunicationError) in
            try broadcast(buffer, root: 0, file: file, line: line)
        }
        var start = 0
        return lengths.map { length in
            defer { start += length }
            return Array(joined[start..<start + length])
        }
    }

    /// Fails on every rank, with the same error, unless all ranks have the same `value`: what start-up checks of
    /// configuration, data and kernel variants need.
    public func checkAgreement(
        on subject: String, _ value: String, file: String = #fileID, line: Int = #line
    ) throws(CommunicationError) {
        let values = try allGather(Array(value.utf8), file: file, line: line)
        for (rank, other) in values.enumerated() where other != values[0] {
            throw .disagreement(
                on: subject, rank: rank, value: String(decoding: other, as: UTF8.self),
                rankZeroValue: String(decoding: values[0], as: UTF8.self))
        }
    }

    // Each block is cut into one slice per rank. A slice's owner collects it from all ranks, adds in rank order and
    // sends the sum to all, so that every rank sends and receives about two blocks whatever the number of ranks. A
    // small block has one slice, owned by rank 0. Either way each element is added in rank order by one rank.
    private func sumInRankOrder<Element: FloatingPoint>(
        _ values: UnsafeMutableBufferPointer<Element>, _ file: String, _ line: Int
    ) throws(CommunicationError) {
        guard size > 1, values.count > 0 else { return }
        var start = 0
        while start < values.count {
            let end = min(values.count, start + sumBlockElements)
            try sumBlock(UnsafeMutableBufferPointer(rebasing: values[start..<end]), file, line)
            start = end
        }
    }

    private func sumBlock<Element: FloatingPoint>(
        _ block: UnsafeMutableBufferPointer<Element>, _ file: String, _ line: Int
    ) throws(CommunicationError) {
        let stride = MemoryLayout<Element>.stride
        let ownerCount = block.count * stride > ownedSumBytes ? size : 1
        func slice(_ owner: Int) -> UnsafeMutableBufferPointer<Element> {
            guard owner < ownerCount else { return UnsafeMutableBufferPointer(rebasing: block[0..<0]) }
            let range = block.count * owner / ownerCount..<block.count * (owner + 1) / ownerCount
            return UnsafeMutableBufferPointer(rebasing: block[range])
        }

        let mine = slice(rank)
        let scratch = UnsafeMutableBufferPointer<Element>.allocate(capacity: mine.count * size)
        defer { scratch.deallocate() }
        func contribution(_ peer: Int) -> UnsafeMutableBufferPointer<Element> {
            UnsafeMutableBufferPointer(rebasing: scratch[peer * mine.count..<(peer + 1) * mine.count])
        }

        var exchange: [Request] = []
        for peer in 0..<size where peer != rank {
            if !mine.isEmpty {
                let buffer = UnsafeMutableRawBufferPointer(contribution(peer))
                exchange.append(
                    try receiveCollective(into: buffer, from: peer, CollectiveTag.contribution.rawValue, file, line))
            }
            if !slice(peer).isEmpty {
                let bytes = UnsafeRawBufferPointer(slice(peer))
                exchange.append(try sendCollective(bytes, to: peer, CollectiveTag.contribution.rawValue, file, line))
            }
        }
        try Request.waitAll(exchange)

        if !mine.isEmpty {
            _ = contribution(rank).update(fromContentsOf: mine)
            _ = mine.update(fromContentsOf: contribution(0))
            for peer in 1..<size {
                let part = contribution(peer)
                for index in 0..<mine.count { mine[index] += part[index] }
            }
        }

        exchange = []
        for peer in 0..<size where peer != rank {
            if !slice(peer).isEmpty {
                let buffer = UnsafeMutableRawBufferPointer(slice(peer))
                exchange.append(
                    try receiveCollective(into: buffer, from: peer, CollectiveTag.result.rawValue, file, line))
            }
            if !mine.isEmpty {
                exchange.append(
                    try sendCollective(
                        UnsafeRawBufferPointer(mine), to: peer, CollectiveTag.result.rawValue, file, line))
            }
        }
        try Request.waitAll(exchange)
    }
}

/// `Array.withUnsafeMutableBytes` with a typed error.
func withMutableBytes<Element: BitwiseCopyable>(
    _ array: inout [Element], _ body: (UnsafeMutableRawBufferPointer) throws(CommunicationError) -> Void
) throws(CommunicationError) {
    var failure: CommunicationError?
    array.withUnsafeMutableBytes { buffer in
        do throws(CommunicationError) { try body(buffer) } catch { failure = error }
    }
    if let failure { throw failure }
}
