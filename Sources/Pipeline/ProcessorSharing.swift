/// Follows ranks that share processors through time: `n` working ranks on `c` processors run at speed `min(1, c / n)`
/// each. Work is measured on a virtual clock that runs at that speed, so that a finish on it is known at the beginning.
/// Every event looks at all ranks: sharing is for the few of one machine.
struct ProcessorSharing {
    private let processors: Double
    private var walk: ScheduleWalk
    /// Per rank: what it is about to do, or does.
    private var current: [(action: Action, unit: Int, work: Double)?]
    /// Per rank: when it begins, in real time; when it finishes, on the virtual clock; infinite when it does not.
    private var begins: [Double]
    private var finishes: [Double]
    /// Per rank: when it began, in real time.
    private var began: [Double]
    private var workingCount = 0
    private var time = 0.0
    private var virtualTime = 0.0

    init(_ schedule: Schedule, _ index: ScheduleIndex, processors: Int) {
        self.processors = Double(processors)
        walk = ScheduleWalk(schedule, index)
        let count = schedule.ranks.count
        current = Array(repeating: nil, count: count)
        begins = Array(repeating: .infinity, count: count)
        finishes = begins
        began = begins
    }

    /// - Precondition: the schedule is legal.
    mutating func run(_ clock: inout SimulatorClock) {
        for rank in begins.indices { prepare(rank, &clock) }
        while true {
            let beginner = begins.indices.min { begins[$0] < begins[$1] }!
            let finisher = finishes.indices.min { finishes[$0] < finishes[$1] }!
            let speed = min(1, processors / Double(max(1, workingCount)))
            let finish = time + (finishes[finisher] - virtualTime) / speed
            if begins[beginner] == .infinity, finish == .infinity { return }
            if begins[beginner] <= finish {
                virtualTime += (begins[beginner] - time) * speed
                time = begins[beginner]
                begin(beginner, &clock)
            } else {
                virtualTime = finishes[finisher]
                time = finish
                finishes[finisher] = .infinity
                workingCount -= 1
                complete(finisher, &clock)
            }
        }
    }

    /// Sets the time at which an idle rank does its next action, if all that needs is known.
    private mutating func prepare(_ rank: Int, _ clock: inout SimulatorClock) {
        guard current[rank] == nil, let (action, unit) = walk.next(rank) else { return }
        let (start, end) = clock.span(action, unit, rank)
        current[rank] = (action, unit, end - start)
        begins[rank] = max(start, time)
    }

    private mutating func begin(_ rank: Int, _ clock: inout SimulatorClock) {
        begins[rank] = .infinity
        began[rank] = time
        let work = current[rank]!.work
        if work == 0 { return complete(rank, &clock) }
        finishes[rank] = virtualTime + work
        workingCount += 1
    }

    private mutating func complete(_ rank: Int, _ clock: inout SimulatorClock) {
        let (action, unit, _) = current[rank]!
        current[rank] = nil
        clock.complete(action, unit, rank, start: began[rank], end: time)
        var woken = [rank]
        walk.complete(rank, action, unit) { woken.append($0) }
        for other in woken { prepare(other, &clock) }
    }
}
