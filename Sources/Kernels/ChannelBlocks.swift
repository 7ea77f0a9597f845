/// The layout of scans whose lanes are channels: `[⌈C/16⌉, M, 16]` for a table `[C, M]`, padding lanes zero.
enum ChannelBlocks {
    /// Channels of one task of a scan; it fixes the order of sums over channels.
    static let groupWidth = 256

    static func groupCount(channels: Int) -> Int { (channels + groupWidth - 1) / groupWidth }

    static func group(_ index: Int, channels: Int) -> Range<Int> {
        index * groupWidth..<min(channels, (index + 1) * groupWidth)
    }

    /// Floats of a table of `width` elements per channel.
    static func floats(channels: Int, width: Int) -> Int { (channels + 15) / 16 * 16 * width }

    /// `[channels, width]` to blocks; nil is zero.
    static func pack(
        _ plain: UnsafePointer<Float>?, channels: Int, width: Int, into packed: UnsafeMutablePointer<Float>
    ) {
        packed.update(repeating: 0, count: floats(channels: channels, width: width))
        guard let plain else { return }
        for channel in 0..<channels {
            let target = packed + channel / 16 * 16 * width + channel % 16
            for m in 0..<width { target[m * 16] = plain[channel * width + m] }
        }
    }

    /// Blocks to `[channels, width]`.
    static func unpack(
        _ packed: UnsafePointer<Float>, channels: Int, width: Int, into plain: UnsafeMutablePointer<Float>
    ) {
        for channel in 0..<channels {
            let source = packed + channel / 16 * 16 * width + channel % 16
            for m in 0..<width { plain[channel * width + m] = source[m * 16] }
        }
    }
}
