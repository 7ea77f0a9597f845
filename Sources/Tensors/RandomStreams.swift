import Kernels

/// Draws a parameter's initial elements from its seed and name alone, so that every rank that owns
/// it, and every cut of the model, starts from the same bits.
public struct ParameterStream {
    private let key: UInt64

    public init(seed: UInt64, name: String) {
        // FNV-1a of the name, mixed with the seed.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        key = hash ^ (seed &* 0x9e37_79b9_7f4a_7c15)
    }
}
