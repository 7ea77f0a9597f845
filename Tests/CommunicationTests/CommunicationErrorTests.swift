import Communication
import Testing

@Suite struct CommunicationErrorTests {
    static let receive = Message(
        direction: .receive, rank: 2, peer: 1, tag: 17, byteCount: 64, channel: .pointToPoint,
        file: "Pipeline/Interpreter.swift",
        line: 88)
    static let open = Message(
        direction: .receive, rank: 2, peer: 1, tag: 17, byteCount: 64, mayBeShorter: true, channel: .pointToPoint,
        file: "Pipeline/Interpreter.swift", line: 90)
    static let words = "rank 2: receive from rank 1, tag 17, 64 bytes (Pipeline/Interpreter.swift:88)"

    @Test(arguments: [
        (
            CommunicationError.timedOut(receive, waitedSeconds: 30.0004),
            "\(words) did not complete within 30.0 s: the peer is stuck, has died, or never posts the matching message"
        ),
        (
            .lengthMismatch(receive, received: 60),
            "\(words) got a message of 60 bytes; both ends must compute the same size from the plan"
        ),
        (
            .lengthMismatch(receive, received: nil),
            "\(words) got a longer message than that; both ends must compute the same size from the plan"
        ),
        (
            .lengthMismatch(open, received: 80),
            "rank 2: receive from rank 1, tag 17, at most 64 bytes (Pipeline/Interpreter.swift:90) got a message of 80 bytes; both ends must compute the same size from the plan"
        ),
        (.invalidPeer(receive, rankCount: 4), "\(words) names a rank that does not exist; expected 0 ..< 4"),
        (.invalidTag(receive, largest: 99), "\(words) has an invalid tag; expected 0 ... 99"),
        (.peerClosed(receive), "\(words) can never complete: rank 1 has already ended"),
        (.aborted(rank: 3), "was at work when rank 3 ended the job"),
        (
            .interrupted(receive, waitedSeconds: 1.5, rank: 3),
            "\(words) had been waited for 1.5 s when rank 3 ended the job"
        ),
        (.stillRunning(rank: 3, waitedSeconds: 2), "had ended, but rank 3 had not 2.0 s later"),
        (
            .disagreement(on: "kernel variant", rank: 1, value: "avx2", rankZeroValue: "avx512"),
            "ranks disagree on kernel variant: rank 1 has 'avx2', rank 0 has 'avx512'; all ranks must run the same program on the same input"
        ),
        (
            .droppedRequests(rank: 2, [receive]),
            "rank 2 started 1 message(s) and never waited for them: \(words)"
        ),
        (
            .transport(function: "MPI_Isend", code: 5, text: "invalid buffer"),
            "MPI_Isend failed with code 5: invalid buffer"
        ),
    ])
    func description(error: CommunicationError, expected: String) {
        #expect(error.description == expected)
    }
}
