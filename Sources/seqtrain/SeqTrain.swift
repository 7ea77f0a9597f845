@main struct SeqTrain { static func main() {} }
