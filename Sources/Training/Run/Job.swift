import Communication
import Foundation
import Kernels
import Models
import Pipeline
import Tensors

/// One rank's view of what the command line asked for: the configuration, the model, the data, and
/// what can be done with them. The command-line tool parses arguments and calls this.
public final class Job {
    public private(set) var run: RunConfiguration
    public let communicator: any Communicator
    private let root: ConfigurationReader
    private let modelReader: ConfigurationReader
    private let dataReader: ConfigurationReader
    /// Layer timings so far, by size of the unit.
    private var measured: [UnitSize: [LayerTiming]] = [:]
    /// Of the configuration file; relative paths in it start there.
    private let directory: String

    /// Reads and checks the configuration. Collective: a mistake that any rank sees ends all ranks with
    /// the same error.
    ///
    /// - Parameter plan: a plan file to run by.
    public static func open(
        config: String, plan: String? = nil, overrides: [String], communicator: any Communicator
    ) throws -> Job {
        try Collective.agree(communicator) {
            try Job(config: config, plan: plan, overrides: overrides, communicator: communicator)
        }
    }

    private init(config: String, plan: String?, overrides: [String], communicator: any Communicator) throws {
        var node = try YAMLConfiguration.load(config, plan: plan, overrides: overrides)
        if let parallel = node["parallel"], case .scalar("auto", quoted: false) = parallel.content {
            node = try Overrides.apply(["parallel={auto: true}"], to: node)
        }
        root = try ConfigurationReader(node)
        directory =
            (config as NSString).deletingLastPathComponent.isEmpty
            ? "." : (config as NSString).deletingLastPathComponent
        run = try RunConfiguration(root, directory: directory)
        modelReader = try root.section("model", required: true)
        dataReader = try root.section("data")
        self.communicator = communicator
    }

    /// The model for a vocabulary; afterwards every key of the file must have been read.
    private func makeModel(dataVocabularySize: Int?, readsData: Bool) throws -> Model {
        let model = try Model(modelReader, dataVocabularySize: dataVocabularySize)
        // Data that are not needed are still checked for unknown keys.
        if !readsData, root.has("data") { _ = try dataSource() }
        try root.finish()
        return model
    }

    private func loadData() throws -> DataSet {
        try DataSet(dataSource(), seed: run.seed, objective: run.train.objective)
    }

    private func dataSource() throws -> DataSource {
        try DataSource(
            dataReader, directory: directory, batchSize: run.train.batchSize, sequenceLength: run.train.sequenceLength)
    }

    /// - Parameters:
    ///   - isProfiled: time every layer, whatever the cut is made by.
    ///   - isSpeedOnly: nobody looks at losses, so a model may see what it is to predict.
    private func open(isProfiled: Bool = false, isSpeedOnly: Bool = false) throws -> (Session, DataSet) {
        let data = try Collective.agree(communicator) { try self.loadData() }
        let session = try openSession(dataVocabularySize: data.symbolCount, isProfiled: isProfiled)
        if !isSpeedOnly {
            try Collective.agree(communicator) {
                try self.run.train.objective.check(
                    session.model, try self.dataSource(), model: self.modelReader,
                    train: try self.root.section("train"))
            }
        }
        return (session, data)
    }

    private func openSession(
        dataVocabularySize: Int?, readsData: Bool = true, isProfiled: Bool = false
    ) throws -> Session {
        if run.parallel.isAutomatic { try plan(dataVocabularySize: dataVocabularySize) }
        let timings =
            isProfiled || run.parallel.partition == .measured || run.parallel.isAutomatic
            ? try profile(dataVocabularySize: dataVocabularySize) : nil
        let session = try Collective.agree(communicator) {
            let model = try self.makeModel(dataVocabularySize: dataVocabularySize, readsData: readsData)
            return try Session(
                run: self.run, model: model, communicator: self.communicator, timings: timings)
        }
        try communicator.checkAgreement(on: "configuration", YAMLConfiguration.dump(root.resolved))
        return session
    }

    /// Seconds of the run's units in every layer. Collective.
    private func profile(dataVocabularySize: Int?) throws -> [LayerTiming] {
        let cut = BatchCut(run, replica: 0)
        let size = Planner.Batching(microBatches: cut.totalMicroBatchCount, chunks: cut.chunkCount).unit(run)
        return try timings([size], dataVocabularySize: dataVocabularySize)[size]!
    }

    /// Collective: ranks share the layers out between them.
    private func timings(_ sizes: [UnitSize], dataVocabularySize: Int?) throws -> [UnitSize: [LayerTiming]] {
        let unknown = sizes.filter { measured[$0] == nil }
        if !unknown.isEmpty {
            measured.merge(
                try LayerProfile.timings(
                    sizes: unknown, threadCount: Session.threadCount(run, communicator), communicator: communicator
                ) {
                    try Model(self.modelReader, dataVocabularySize: dataVocabularySize)
                }
            ) { old, _ in old }
        }
        return measured
    }

    /// Chooses what `parallel: auto` leaves open. Collective.
    private func plan(dataVocabularySize: Int?) throws {
        let choices = try search(
            rankCount: communicator.size, .layout, dataVocabularySize: dataVocabularySize, count: 1)
        run.parallel = choices[0].resolved
    }

    private func search(
        rankCount: Int, _ freedom: Planner.Freedom, dataVocabularySize: Int?, count: Int
    ) throws -> [Planner.Choice] {
        let planner = try Collective.agree(communicator) {
            Planner(
                model: try Model(self.modelReader, dataVocabularySize: dataVocabularySize), run: self.run,
                rankCount: rankCount, optimizerCopies: self.run.optimizer.stateNames.count, freedom: freedom)
        }
        let timings = try timings(planner.unitSizes, dataVocabularySize: dataVocabularySize)
        return try Collective.agree(communicator) { try planner.search(timings: { timings[$0]! }, count: count) }
    }

    // MARK: Commands

    public func train(display: ProgressDisplay) throws -> TrainingLoop.Outcome {
        // A trace is laid beside a prediction.
        let (session, data) = try open(isProfiled: run.parallel.traceSteps > 0)
        if run.generate != nil { try requireCausal(session.model) }
        if communicator.rank == 0 {
            display.message("\(KernelVariant.current.description); \(OpenBLAS.report.description)")
        }
        let loop = try Collective.agree(communicator) {
            try TrainingLoop(
                session: session, data: data, display: display, resolved: YAMLConfiguration.dump(self.root.resolved))
        }
        return try loop.train()
    }

    public func evaluate(checkpoint: String?, split: Corpus.Split) throws -> (result: Session.Evaluation, step: Int) {
        let (session, data) = try open()
        let step = try loadCheckpoint(checkpoint, session, data)
        let batches = try Collective.agree(communicator) { try data.evaluationBatches(split: split) }
        return (try session.evaluate(batches, isStream: data.isStream), step)
    }

    /// As above with a chain of layers instead of all in order. One rank only.
    public func evaluate(
        checkpoint: String?, split: Corpus.Split, path: [Int]
    ) throws -> (result: Session.Evaluation, step: Int) {
        let (session, data) = try openAlone("depth-search")
        let step = try loadCheckpoint(checkpoint, session, data)
        let runner = try PathRunner(model: session.model, context: session.context)
        try runner.check(path)
        let cut = session.plan.cut
        let result = runner.evaluate(
            try data.evaluationBatches(split: split), path: path, microBatchCount: cut.totalMicroBatchCount,
            chunkCount: cut.chunkCount, isStream: data.isStream)
        return (result, step)
    }

    /// Searches chains of layers for the first `samples` sequences of a split. One rank only.
    ///
    /// - Parameters:
    ///   - out: where to write a line for each; nil writes nothing.
    ///   - options: told whether the data are a task.
    /// - Returns: a summary.
    public func searchDepth(
        checkpoint: String?, split: Corpus.Split, samples: Int, out: String?,
        options: (_ isTask: Bool) -> DepthSearch.Options
    ) throws -> String {
        let (session, data) = try openAlone("depth-search")
        _ = try loadCheckpoint(checkpoint, session, data)
        let runner = try PathRunner(model: session.model, context: session.context)
        let search = DepthSearch(runner: runner, options: options(data.isTask), rowLimit: run.train.batchSize)
        let outcomes = search.run(try data.evaluationBatches(split: split), limit: samples)
        if let out {
            try FileSystem.replace(out, with: Array(outcomes.map { $0.json.text + "\n" }.joined().utf8))
        }
        return DepthSearch.summary(outcomes, depth: runner.layerCount)
    }

    /// Fits the model to a teacher (`Distiller`). One rank only.
    ///
    /// - Returns: the checkpoint, where one was written, and a report.
    public func distill(display: ProgressDisplay) throws -> (checkpoint: String?, report: String) {
        let (session, data) = try openAlone("distill")
        let loop = try DistillationLoop(
            session: session, data: data, configuration: try distillation(), display: display,
            resolved: YAMLConfiguration.dump(root.resolved))
        return try loop.train()
    }

    /// The blocks that the teacher's activations fall into; see `LayerPhases`. One rank only.
    ///
    /// - Parameter fraction: of the distances between all layers that a cut must have across it.
    public func layerPhases(fraction: Double) throws -> [Range<Int>] {
        let (session, data) = try openAlone("distill")
        let teacher = try Teacher(try distillation(), data: data, context: session.context)
        let batches = try data.evaluationBatches(split: .valid, limit: run.eval.batches ?? 4)
        return LayerPhases(activations: batches.map { teacher.activations($0.inputs, batch: $0.rows) })
            .phases(fraction: fraction)
    }

    private func distillation() throws -> DistillationConfiguration {
        guard let configuration = run.distillation else {
            throw RunError.usage(
                "the configuration has no 'distill' section; name a teacher: distill: { teacher: DIR }")
        }
        return configuration
    }

    /// - Parameter command: to name in the error.
    private func openAlone(_ command: String) throws -> (Session, DataSet) {
        guard communicator.size == 1 else {
            throw RunError.usage("'\(command)' runs in one process; start it without mpirun and --local-ranks")
        }
        return try open()
    }

    public func generate(
        checkpoint: String?, _ request: RunConfiguration.GenerateSection, onText: (String) -> Void
    ) throws -> TextGenerator.Result {
        let (session, data) = try open()
        try requireCausal(session.model)
        _ = try loadCheckpoint(checkpoint, session, data)
        return try TextGenerator(session: session, data: data).generate(request, onText: onText)
    }

    /// Generation writes one token after another.
    private func requireCausal(_ model: Model) throws {
        if let layer = model.layers.first(where: { $0.lookahead == .whole }) {
            throw RunError.usage("cannot generate text: '\(layer.name)' reads tokens that follow; use causal mixers")
        }
    }

    private func loadCheckpoint(_ path: String?, _ session: Session, _ data: DataSet) throws -> Int {
        guard path != nil || run.checkpoint.directory != nil else {
            throw RunError.usage("no checkpoint: give --checkpoint DIR, or set checkpoint.directory")
        }
        let store = try CheckpointStore(
            directory: run.checkpoint.directory ?? path!, session: session, data: data, resolvedConfiguration: nil)
        return try store.loadModel(path)
    }

    /// The layer table of `describe`.
    public func description() throws -> String {
        try Collective.agree(communicator) {
            let size = self.modelReader.has("vocabulary_size") ? nil : try self.loadData().symbolCount
            let model = try self.makeModel(dataVocabularySize: size, readsData: size != nil)
            return ModelDescription.table(model, time: self.run.train.sequenceLength)
        }
    }

    /// Cut, timeline, predicted bubble and memory of the configured layout on `ranks` ranks, estimated.
    public func layoutDescription(ranks: Int?) throws -> String {
        let size = try vocabularySize()
        let timings = run.parallel.partition == .measured ? try profile(dataVocabularySize: size) : nil
        return try Collective.agree(communicator) {
            let model = try self.makeModel(dataVocabularySize: size, readsData: size != nil)
            return try PlanDescription.text(
                model: model, run: self.run, timings: timings,
                rankCount: RankLayout.pipelineSize(self.run.parallel, rankCount: self.jobSize(ranks)))
        }
    }

    /// Measures the layers, searches layouts on `ranks` ranks, and describes the best few.
    ///
    /// - Parameters:
    ///   - memory: bytes per rank; nil takes `parallel.memory_limit`.
    ///   - out: where to write the best as a plan file, on rank 0.
    public func searchDescription(ranks: Int?, memory: Int?, out: String?) throws -> String {
        let size = try vocabularySize()
        if let memory { run.parallel.memoryLimit = memory }
        _ = try Collective.agree(communicator) {
            try self.makeModel(dataVocabularySize: size, readsData: size != nil)
        }
        let rankCount = jobSize(ranks)
        let choices = try search(rankCount: rankCount, .batching, dataVocabularySize: size, count: 5)
        try Collective.agree(communicator) {
            guard let out, self.communicator.rank == 0 else { return }
            try FileSystem.replace(out, with: Array(PlanFile.text(choices[0], run: self.run).utf8))
        }
        return PlanDescription.text(choices, rankCount: rankCount)
    }

    private func jobSize(_ ranks: Int?) -> Int {
        ranks ?? run.parallel.stages.map { $0 * run.parallel.replicas } ?? communicator.size
    }

    /// Of the data, when the model does not say. Collective.
    private func vocabularySize() throws -> Int? {
        try Collective.agree(communicator) {
            self.modelReader.has("vocabulary_size") ? nil : try self.loadData().symbolCount
        }
    }

    public func bench(warmup: Int, steps: Int) throws -> BenchResult {
        let (session, data) = try open(isProfiled: true, isSpeedOnly: true)
        return try Bench.measure(session: session, data: data, warmup: warmup, steps: steps)
    }

    /// Writes the probe file; see `Probe`.
    public func probe(out: String, params: String?, batch: String?) throws {
        let source: Probe.BatchSource
        let session: Session
        if let batch {
            let tokens = try Collective.agree(communicator) { try Probe.readBatch(batch) }
            // The file decides the sizes.
            run.train.batchSize = tokens.rows
            run.train.sequenceLength = tokens.time
            run.parallel.microBatches = min(run.parallel.microBatches, tokens.rows)
            guard run.parallel.replicas <= tokens.rows else {
                throw RunError.usage(
                    "\(batch) holds \(tokens.rows) sequences, too few for parallel.replicas \(run.parallel.replicas); use at most \(tokens.rows) replicas"
                )
            }
            session = try openSession(dataVocabularySize: nil, readsData: false)
            source = .given(tokens)
        } else {
            let data: DataSet
            (session, data) = try open()
            source = .data(data)
        }
        try Probe.write(session: session, source: source, parameters: params, to: out)
    }
}

/// Steps that can fail on some ranks only.
enum Collective {
    /// Runs `body` on every rank and, when it failed anywhere, throws the first failing rank's error on
    /// all of them, so that none waits for another and one of them reports it.
    static func agree<Result>(_ communicator: any Communicator, _ body: () throws -> Result) throws -> Result {
        var result: Result?
        var report: [UInt8] = []
        do {
            result = try body()
        } catch let error as CommunicationError {
            // Ranks have lost each other: nothing collective can be said any more.
            throw error
        } catch {
            let code = RunError.exitCode(of: error)
            report = Array("\(code)\n\(error)".utf8)
        }
        let reports = try communicator.allGather(report)
        guard let rank = reports.firstIndex(where: { !$0.isEmpty }) else { return result! }
        let parts = String(decoding: reports[rank], as: UTF8.self).split(separator: "\n", maxSplits: 1)
        // When all ranks fail alike there is nothing to say about any one of them.
        let isCommon = reports.allSatisfy { $0 == reports[rank] }
        throw RunError.otherRank(
            rank: rank, rankCount: isCommon ? 1 : communicator.size, message: String(parts[1]),
            exitCode: Int32(parts[0]) ?? 1)
    }
}
