/// The layout of scans whose lanes are channels: `[⌈C/16⌉, M, 16]` for a table `[C, M]`, padding lanes zero.
enum ChannelBlocks {
    /// Channels of one task of a scan, of all its sequences together; it fixes the order of sums over channels.
    static let groupWidth = 256

    static func groupCount(channels: Int, sequences: Int = 1) -> Int {
        let width = groupWidth / sequences
        return (channels + width - 1) / width
    }

    static func group(_ index: Int, channels: Int, sequences: Int = 1) -> Range<Int> {
        let width = groupWidth / sequences
        return index * width..<min(channels, (index + 1) * width)
    }

    /// Floats of a table of `width` elements per channel.
    static func floats(channels: Int, width: Int) -> Int { (channels + 15) / 16 * 16 * width }

    /// `[channels, width]` to blocks; nil is zero.
    static func pack(
        _ plain: UnsafePointer<Float>?, channels: Int, width: Int, into packed: UnsafeMutablePointer<Float>
    ) {
        packed.update(repeating: 0, count: floats(channels: channels, width: width))
        guard let plain else { return }
        copy(plain, channels: channels, width: width, lanes: 16, stride: 16, into: packed)
    }

    /// `[channels, width]` to blocks of `lanes` channels whose elements are `stride` apart; other lanes stay.
    static func copy(
        _ plain: UnsafePointer<Float>, channels: Int, width: Int, lanes: Int, stride: Int,
        into packed: UnsafeMutablePointer<Float>
    ) {
        for channel in 0..<channels {
            let target = packed + channel / lanes * stride * width + channel % lanes
            for m in 0..<width { target[m * stride] = plain[channel * width + m] }
        }
    }

    /// Blocks to `[channels, width]`, see ``copy(_:channels:width:lanes:stride:into:)``.
    static func unpack(
        _ packed: UnsafePointer<Float>, channels: Int, width: Int, lanes: Int = 16, stride: Int = 16,
        into plain: UnsafeMutablePointer<Float>
    ) {
        for channel in 0..<channels {
            let source = packed + channel / lanes * stride * width + channel % lanes
            for m in 0..<width { plain[channel * width + m] = source[m * stride] }
        }
    }
}
