import Glibc

/// A file that cannot be used. Every description names the file, what went wrong, and the remedy.
public enum FileError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A system call failed.
    case system(operation: String, path: String, code: Int32)
    case isDirectory(path: String)
    /// The contents are not what the format demands.
    case malformed(path: String, String)
    case truncated(path: String, expectedBytes: Int, actualBytes: Int)
    case checksumMismatch(path: String, expected: String, actual: String)

    public var description: String {
        switch self {
        case .system(let operation, let path, let code):
            return "\(path): cannot \(operation): \(Self.reason(code))"
        case .isDirectory(let path):
            return "\(path): is a directory; a file is needed here"
        case .malformed(let path, let message):
            return "\(path): \(message)"
        case .truncated(let path, let expected, let actual):
            return "\(path): truncated: expected \(expected) bytes, found \(actual);"
                + " the copy or the run that wrote it was cut short, fetch or write it again"
        case .checksumMismatch(let path, let expected, let actual):
            return "\(path): checksum mismatch: manifest says \(expected), the file has \(actual);"
                + " the file changed after it was written, use another copy or an older checkpoint"
        }
    }

    /// The system's words for an error, with a remedy for the common ones.
    static func reason(_ code: Int32) -> String {
        switch code {
        case ENOENT: return "no such file; check the path (relative paths start at the current directory)"
        case EACCES, EPERM: return "permission denied; make it accessible to this user"
        case ENOSPC: return "no space left on the device; free some or write elsewhere"
        case EDQUOT: return "disk quota exceeded; free some or write elsewhere"
        default: return String(cString: strerror(code))
        }
    }
}
