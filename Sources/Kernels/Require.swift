/// Stops the program with `message` when `condition` is false: for programmer errors (sizes, indices, misuse),
/// in every build configuration. Errors of the outside world are thrown instead.
///
/// - Parameter message: `"where: got; expected"`; evaluated only on failure.
@inlinable
public func require(
    _ condition: @autoclosure () -> Bool, _ message: @autoclosure () -> String,
    file: StaticString = #fileID, line: UInt = #line
) {
    if !condition() { requirementFailed(message(), file: file, line: line) }
}

@usableFromInline
@inline(never)
func requirementFailed(_ message: String, file: StaticString, line: UInt) -> Never {
    fatalError(message, file: file, line: line)
}
