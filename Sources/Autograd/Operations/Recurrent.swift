import Kernels
import Tensors

/// Parameters of one direction of one recurrent layer, `G` gates: `[G·H, in]`, `[G·H, H]`, `[G·H]`, `[G·H]`.
public struct RecurrentWeights {
    public let inputWeight, recurrentWeight: ParameterUse
    public let inputBias, recurrentBias: ParameterUse?

    public init(
        inputWeight: ParameterUse, recurrentWeight: ParameterUse, inputBias: ParameterUse?,
        recurrentBias: ParameterUse?
    ) {
        self.inputWeight = inputWeight
        self.recurrentWeight = recurrentWeight
        self.inputBias = inputBias
        self.recurrentBias = recurrentBias
    }

    var hiddenSize: Int { recurrentWeight.shape[1] }
}
