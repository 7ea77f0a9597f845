import Models
import Pipeline

/// Searches the layouts of a run for the fastest that fits the memory, by simulation.
///
/// A pure function of its inputs: ranks that pass the same timings find the same layouts.
struct Planner {
    /// Which of the numbers that show in the result's last bits may be chosen too.
    enum Freedom {
        /// Only what is invisible in the result: schedule, stages per rank, cut, re-materialisation.
        case layout
        /// Micro-batches, chunks and replicas as well.
        case batching
    }

    /// A layout, as the configuration that asks for it, and what it is predicted to cost.
    struct Choice {
        let parallel: RunConfiguration.ParallelSection
        let stepSeconds: Double
        /// Idle share of the pipeline's ranks.
        let bubble: Double
        /// Of the fullest rank.
        let peakBytes: Int
        let layerCounts: [Int]
    }

    let model: Model
    let run: RunConfiguration
    /// Ranks of the whole job.
    let rankCount: Int
    let optimizerCopies: Int
    let freedom: Freedom

    /// Micro-batches and chunks of one candidate, and the replicas that share the micro-batches.
    struct Batching: Hashable {
        let microBatches, chunks: Int

        /// Rows and positions of the largest unit.
        func unit(_ run: RunConfiguration) -> UnitSize {
            UnitSize(
                rows: (run.train.batchSize + microBatches - 1) / microBatches,
                time: (run.train.sequenceLength + chunks - 1) / chunks)
        }
    }

    /// Every batching that the search looks at.
    var batchings: [Batching] {
        let parallel = run.parallel
        guard freedom == .batching else {
            return [Batching(microBatches: parallel.microBatches, chunks: parallel.chunks)]
        }
        let (rows, time) = (run.train.batchSize, run.train.sequenceLength)
        let microBatches = Set(powersOfTwo(upTo: min(rows, 4096)) + [parallel.microBatches]).sorted()
        // Shorter chunks leave too little work to a unit.
        let chunks =
            model.chunkingObstacle == nil
            ? Set(powersOfTwo(upTo: min(16, max(1, time / 16))) + [parallel.chunks]).sorted() : [1]
        return microBatches.flatMap { m in chunks.map { Batching(microBatches: m, chunks: $0) } }
    }

    private func powersOfTwo(upTo limit: Int) -> [Int] {
        Array(sequence(first: 1) { 2 * $0 <= limit ? 2 * $0 : nil })
    }

    /// The best layouts, fastest first.
    ///
    /// - Parameters:
    ///   - timings: measured seconds of every layer for a unit of the size.
    ///   - count: how many to return.
    /// - Throws: what stands against the last candidate, when none is possible.
    func search(timings: (UnitSize) -> [LayerTiming], count: Int) throws -> [Choice] {
        var best: [Choice] = []
        var failure: (any Error)?
        for batching in batchings {
            let measured = timings(batching.unit(run))
            for candidate in candidates(batching) {
                // A layout that is slower without any bubble need not be simulated.
                let bound = best.count < count ? .infinity : best.last!.stepSeconds
                do {
                    guard let choice = try leastRecomputed(candidate, measured, bound: bound) else { continue }
                    let place = best.firstIndex { choice.stepSeconds < $0.stepSeconds } ?? best.count
                    best.insert(choice, at: place)
                    if best.count > count { best.removeLast() }
                } catch {
                    failure = error
                }
            }
        }
        if best.isEmpty, let failure { throw failure }
        return best
    }

    /// Sizes of units that `search` will ask timings for.
    var unitSizes: [UnitSize] {
        var sizes: [UnitSize] = []
        for size in batchings.map({ $0.unit(run) }) where !sizes.contains(size) { sizes.append(size) }
        return sizes
    }

    private func candidates(_ batching: Batching) -> [RunConfiguration.ParallelSection] {
        var result: [RunConfiguration.ParallelSection] = []
        for replicas in replicaCounts where batching.microBatches >= replicas {
            let stages = rankCount / replicas
            for schedule in schedules(stages: stages) {
                for (placement, virtualStages) in placements(schedule, stages: stages) {
                    var parallel = run.parallel
                    parallel.placement = placement
                    parallel.stages = stages
                    parallel.replicas = replicas
                    parallel.schedule = schedule
                    parallel.virtualStages = virtualStages
                    parallel.microBatches = batching.microBatches
                    parallel.chunks = batching.chunks
                    result.append(parallel)
                }
            }
        }
        return result
    }

    private var replicaCounts: [Int] {
        if freedom == .layout || run.parallel.isGiven("replicas") { return [run.parallel.replicas] }
        if let stages = run.parallel.stages { return [rankCount / stages] }
        return (1...rankCount).filter { rankCount.isMultiple(of: $0) && rankCount / $0 <= model.layerCount }
    }

    private func schedules(stages: Int) -> [RunConfiguration.ScheduleChoice] {
        if run.parallel.isGiven("schedule") { return [run.parallel.schedule] }
        var names = ScheduleCatalog.names
        if let placement = run.parallel.placement {
            names = names.filter { ScheduleCatalog.placementKinds($0).contains(placement) }
        } else if stages == 1 {
            // One rank has no bubble to fill.
            names = ["1f1b"]
        }
        return names.map { .named($0) }
    }

    /// The placements that a schedule can have here, with stages per rank where the placement leaves them open.
    private func placements(
        _ schedule: RunConfiguration.ScheduleChoice, stages: Int
    ) -> [(placement: PlacementKind?, virtualStages: Int?)] {
        let virtualStages = run.parallel.virtualStages
        guard case .named(let name) = schedule, !run.parallel.isGiven("virtual_stages") else {
            return [(run.parallel.placement, virtualStages)]
        }
        var result: [(placement: PlacementKind?, virtualStages: Int?)] = []
        for kind in ScheduleCatalog.placementKinds(name) where kind == run.parallel.placement ?? kind {
            switch kind {
            case .ring: if model.canFormRings { result.append((.ring, nil)) }
            case .interleaved: result += (2...4).filter { stages * $0 <= model.layerCount }.map { (kind, $0) }
            case .contiguous, .vShape: result.append((kind, nil))
            }
        }
        return result
    }

    /// Recomputation never saves time, so there is no more of it than the memory asks for.
    private func leastRecomputed(
        _ parallel: RunConfiguration.ParallelSection, _ timings: [LayerTiming], bound: Double
    ) throws -> Choice? {
        var parallel = parallel
        if !run.parallel.isGiven("partition") { parallel.partition = .measured }
        if run.parallel.isGiven("rematerialize") { return try evaluate(parallel, timings, bound: bound) }
        var failure: RunError?
        for rematerialization in [Rematerialization.never, .exceptLast, .always] {
            parallel.rematerialization = rematerialization
            do {
                return try evaluate(parallel, timings, bound: bound)
            } catch let error as RunError {
                guard case .memory = error else { throw error }
                failure = error
            }
        }
        throw failure!
    }

    private func evaluate(
        _ parallel: RunConfiguration.ParallelSection, _ timings: [LayerTiming], bound: Double
    ) throws -> Choice? {
        let work = timings.reduce(0) { $0 + $1.total }
        let units = Double(parallel.microBatches * parallel.chunks) / Double(parallel.replicas)
        guard work * units / Double(parallel.stages!) < bound else { return nil }
        var run = run
        run.parallel = parallel
        let layout = try Layout(
            model: model, run: run, rankCount: parallel.stages!, optimizerCopies: optimizerCopies, timings: timings,
            keepsTimeline: false)
        guard layout.stepSeconds < bound else { return nil }
        let peak = layout.predictedPeakBytes.max()!
        if let limit = parallel.memoryLimit, peak > limit {
            throw RunError.memory(limit: limit, need: peak, cut: layout.stageLayers.map(\.count))
        }
        return Choice(
            parallel: parallel, stepSeconds: layout.stepSeconds, bubble: layout.simulation.bubbleFraction,
            peakBytes: peak, layerCounts: layout.stageLayers.map(\.count))
    }
}

/// Sequences and tokens of each in one unit of work.
struct UnitSize: Hashable {
    let rows, time: Int
}

extension Planner.Choice {
    /// The choice as `parallel` keys, the form of a plan file.
    var keys: [(key: String, value: String)] {
        [
            ("stages", "\(parallel.stages!)"), ("replicas", "\(parallel.replicas)"),
            ("schedule", parallel.schedule.description),
        ] + (parallel.placement.map { [("placement", $0.rawValue)] } ?? [])
            + (parallel.virtualStages.map { [("virtual_stages", "\($0)")] } ?? []) + [
                ("micro_batches", "\(parallel.microBatches)"), ("chunks", "\(parallel.chunks)"),
            ]
            + (parallel.rematerializedLayers.isEmpty
                ? [("rematerialize", parallel.rematerialization.rawValue)] : [])
            + (parallel.placement == .ring
                ? [("partition", "measured")]
                : [("partition", "[\(layerCounts.map(String.init).joined(separator: ", "))]")])
    }

    /// The configuration with this choice made.
    var resolved: RunConfiguration.ParallelSection {
        var result = parallel
        // The shared block fixes the stages of a ring but for its slices.
        if parallel.placement != .ring { result.partition = .explicit(layerCounts) }
        return result
    }
}
