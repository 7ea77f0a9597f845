/// Numbers the distinct words of a text in order of first appearance, working on bytes: a corpus of two
/// million words holds a few ten thousand different ones, and only those become strings.
struct WordTable {
    private var slots = [Int32](repeating: -1, count: 1 << 16)
    private var hashes: [UInt64] = []
    private var starts: [Int] = [0]
    private var letters: [UInt8] = []

    var count: Int { hashes.count }

    subscript(number: Int) -> String { String(decoding: letters[starts[number]..<starts[number + 1]], as: UTF8.self) }

    mutating func number(of word: UnsafeRawBufferPointer) -> Int32 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in word { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        var slot = Int(truncatingIfNeeded: hash ^ hash >> 32) & (slots.count - 1)
        while slots[slot] >= 0 {
            let number = Int(slots[slot])
            if hashes[number] == hash, letters[starts[number]..<starts[number + 1]].elementsEqual(word) {
                return slots[slot]
            }
            slot = (slot + 1) & (slots.count - 1)
        }
        let number = Int32(hashes.count)
        slots[slot] = number
        hashes.append(hash)
        letters.append(contentsOf: word)
        starts.append(letters.count)
        if hashes.count * 2 > slots.count { grow() }
        return number
    }

    private mutating func grow() {
        slots = [Int32](repeating: -1, count: slots.count * 2)
        for (number, hash) in hashes.enumerated() {
            var slot = Int(truncatingIfNeeded: hash ^ hash >> 32) & (slots.count - 1)
            while slots[slot] >= 0 { slot = (slot + 1) & (slots.count - 1) }
            slots[slot] = Int32(number)
        }
    }

    /// Appends the numbers of all words of a text, and `-1` at the end of each line if asked for.
    /// A last line without a newline counts if it is not empty.
    mutating func append(_ text: UnsafeRawBufferPointer, lineEnds: Bool, to numbers: inout [Int32]) {
        var start = 0
        func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }
        for index in 0...text.count {
            guard index == text.count || isSpace(text[index]) else { continue }
            if index > start { numbers.append(number(of: UnsafeRawBufferPointer(rebasing: text[start..<index]))) }
            let endsLine = index < text.count ? text[index] == 0x0A : !text.isEmpty && text[text.count - 1] != 0x0A
            if lineEnds, endsLine { numbers.append(-1) }
            start = index + 1
        }
    }
}
