import Autograd
import Foundation
import Kernels
import Models
import Tensors

/// Fills parameters from a checkpoint, of the same model or of a full-depth one that a recursive model replaces.
///
/// Each parameter is a function of the files alone, so every rank fills what it holds, and all ranks the same bits.
struct WeightInitialization {
    private let configuration: InitializationConfiguration
    private let seed: UInt64

    init(_ configuration: InitializationConfiguration, seed: UInt64) {
        self.configuration = configuration
        self.seed = seed
    }

    /// - Parameter held: the parameters of this rank, materialised.
    /// - Returns: what was done, for the log.
    /// - Throws: `RunError.checkpoint` naming the tensor.
    func apply(to model: Model, held: [Parameter]) throws -> String {
        let path = try CheckpointStore.resolved(configuration.checkpoint)
        do {
            if FileSystem.exists(path + "/manifest.json") {
                try ChecksumManifest(readingFrom: path).verify(in: path)
            }
            let reader = TensorReader(files: try SafeTensorsCollection(path))
            let origins = try WeightOrigins(configuration, model: model, names: reader.files.names, seed: seed)
            try fill(model, Set(held.map(ObjectIdentifier.init)), origins, reader)
            return (["weights from \(path)"] + origins.summary).joined(separator: "; ")
        } catch let error as FileError {
            throw RunError.checkpoint(path: path, message: "\(error)")
        }
    }

    private func fill(
        _ model: Model, _ held: Set<ObjectIdentifier>, _ origins: WeightOrigins, _ reader: TensorReader
    ) throws {
        let entries = zip(model.registry.parameters, origins.origins).filter { held.contains(ObjectIdentifier($0.0)) }
        for (parameter, origin) in entries {
            guard case .mean(let names) = origin else { continue }
            try reader.read(names, into: parameter)
            for alias in origins.aliases[parameter.name] ?? [] { try reader.requireEqual(alias, to: parameter) }
        }
        // Corrections need the shared weights. Both factors come of one decomposition.
        var last: (full: String, factors: Correction)?
        for (parameter, origin) in entries {
            guard case .correction(let base, let full, let scale, let isDown) = origin else { continue }
            if last?.full != full {
                last = (full, try Correction(from: reader.elements(full, base.shape), base: base, scale: scale, full))
            }
            last!.factors.write(isDown: isDown, to: parameter)
        }
    }
}

/// The low-rank approximation of what a shared matrix lacks at one depth (arXiv 2410.20672, section 3.2):
/// `W(full) − W(shared) = U Σ Vᵀ`, `down = Vᵀ[:r]`, `up = U[:, :r] Σ[:r] ÷ scale`.
private struct Correction {
    private let svd: SingularValueDecomposition
    private let rows, columns: Int
    private let scale: Double

    init(from full: [Float], base: Parameter, scale: Float, _ name: String) throws {
        (rows, columns) = (base.shape[0], base.shape[1])
        self.scale = Double(scale)
        let shared = base.value.pointer
        do {
            svd = try SingularValueDecomposition(
                full.indices.map { Double(full[$0]) - Double(shared[$0]) }, rows: rows, columns: columns)
        } catch .noLibrary {
            throw RunError.usage(
                "train.initialize_from.low_rank: svd needs OpenBLAS with LAPACK, which is not installed; install libopenblas0 or set low_rank: random"
            )
        } catch .failed(let code) {
            throw RunError.usage(
                "train.initialize_from: the decomposition of '\(name)' failed (LAPACK code \(code)); look for NaN in the checkpoint, or set low_rank: random"
            )
        }
    }

    /// - Parameter isDown: `[r, columns]`; otherwise `[rows, r]`.
    func write(isDown: Bool, to parameter: Parameter) {
        let value = parameter.value.pointer
        if isDown {
            for i in 0..<parameter.shape.count { value[i] = Float(svd.vt[i]) }
        } else {
            let (rank, all) = (parameter.shape[1], min(rows, columns))
            for row in 0..<rows {
                for i in 0..<rank {
                    value[row * rank + i] = Float(svd.u[row * all + i] * svd.values[i] / scale)
                }
            }
        }
        parameter.valueChanged()
    }
}

/// Reads tensors of a checkpoint with errors that say what the model wanted.
private struct TensorReader {
    let files: SafeTensorsCollection

    /// The mean of tensors, summed in double precision in the order of the names.
    func read(_ names: [String], into parameter: Parameter) throws {
        for name in names { try check(name, parameter.shape, for: parameter.name) }
        let value = parameter.value
        if names.count == 1 {
            try files.readFloats(names[0], into: value.pointer, count: value.count)
        } else {
            var sum = [Double](repeating: 0, count: value.count)
            for name in names {
                for (i, element) in try files.floats(name).enumerated() { sum[i] += Double(element) }
            }
            for i in sum.indices { value.pointer[i] = Float(sum[i] / Double(names.count)) }
        }
        parameter.valueChanged()
    }

    func elements(_ name: String, _ shape: Shape) throws -> [Float] {
        try check(name, shape, for: name)
        return try files.floats(name)
    }

    func requireEqual(_ alias: String, to parameter: Parameter) throws {
        try check(alias, parameter.shape, for: parameter.name)
        let other = try files.floats(alias)
        guard let i = other.indices.first(where: { other[$0] != parameter.value.pointer[$0] }) else { return }
        throw RunError.checkpoint(
            path: files.path,
            message:
                "tensor '\(alias)' differs from '\(parameter.name)' (element \(i): \(other[i]), \(parameter.value.pointer[i])), "
                + (alias == "lm_head.weight"
                    ? "but the model ties them; set model.tie_embeddings: false"
                    : "but the model shares them; set train.initialize_from.method to average or stepwise"))
    }

    private func check(_ name: String, _ expected: Shape, for parameter: String) throws {
        let purpose = name == parameter ? "" : " for '\(parameter)'"
        guard files.contains(name) else {
            let remedy =
                name == "lm_head.weight"
                ? "set model.tie_embeddings: true, as the checkpoint has no head of its own"
                : "describe in 'model' the model it was written by"
            throw RunError.checkpoint(
                path: files.path, message: "has no tensor '\(name)' \(expected)\(purpose); \(remedy)")
        }
        let shape = try files.entry(name).shape
        guard shape == expected.dimensions else {
            throw RunError.checkpoint(
                path: files.path,
                message:
                    "tensor '\(name)' has shape \(shape), the model wants \(expected)\(purpose); change the sizes in 'model' to those of the checkpoint"
            )
        }
    }
}
