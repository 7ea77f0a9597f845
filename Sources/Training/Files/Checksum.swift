/// CRC-32C (Castagnoli), the checksum of iSCSI, ext4 and TFRecord: detects every burst of up to 32 bits
/// and is the same on every machine.
///
/// Eight tables, eight bytes per step ("slicing by 8", Kounavis and Berry 2008).
public struct Checksum: Sendable, Equatable, CustomStringConvertible {
    private var state: UInt32 = 0xFFFF_FFFF

    public init() {}

    public init(of bytes: [UInt8]) {
        bytes.withUnsafeBytes { update($0) }
    }

    public var value: UInt32 { ~state }

    /// Eight hexadecimal digits.
    public var description: String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    /// The checksum of a whole file.
    public static func ofFile(_ path: String) throws(FileError) -> Checksum {
        try MappedFile(path).withBytes { bytes in
            var checksum = Checksum()
            checksum.update(bytes)
            return checksum
        }
    }

    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        Self.tables.withUnsafeBufferPointer { tables in
            var crc = state
            var index = 0
            while index + 8 <= bytes.count {
                let word = bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self).littleEndian ^ UInt64(crc)
                crc = tables[7 * 256 + Int(word & 255)] ^ tables[6 * 256 + Int(word >> 8 & 255)]
                crc ^= tables[5 * 256 + Int(word >> 16 & 255)] ^ tables[4 * 256 + Int(word >> 24 & 255)]
                crc ^= tables[3 * 256 + Int(word >> 32 & 255)] ^ tables[2 * 256 + Int(word >> 40 & 255)]
                crc ^= tables[256 + Int(word >> 48 & 255)] ^ tables[Int(word >> 56)]
                index += 8
            }
            while index < bytes.count {
                crc = crc >> 8 ^ tables[Int(UInt8(truncatingIfNeeded: crc) ^ bytes[index])]
                index += 1
            }
            state = crc
        }
    }

    private static let tables: [UInt32] = {
        var tables = [UInt32](repeating: 0, count: 8 * 256)
        for byte in 0..<256 {
            var crc = UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
            tables[byte] = crc
        }
        for table in 1..<8 {
            for byte in 0..<256 {
                let previous = tables[(table - 1) * 256 + byte]
                tables[table * 256 + byte] = previous >> 8 ^ tables[Int(previous & 255)]
            }
        }
        return tables
    }()
}
