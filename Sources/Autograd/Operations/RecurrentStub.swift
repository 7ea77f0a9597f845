import Tensors
extension Tape {
  public func lstm(_ x: Variable, _ w: RecurrentWeights, batch: Int, time: Int, hidden: Variable?, cell: Variable?, isReversed: Bool) -> (output: Variable, hidden: Variable, cell: Variable) { fatalError() }
  public func gru(_ x: Variable, _ w: RecurrentWeights, batch: Int, time: Int, hidden: Variable?, isReversed: Bool) -> (output: Variable, hidden: Variable) { fatalError() }
  public func elman(_ x: Variable, _ w: RecurrentWeights, batch: Int, time: Int, hidden: Variable?, isReLU: Bool, isReversed: Bool) -> (output: Variable, hidden: Variable) { fatalError() }
}
