// swift-tools-version: 6.2
import PackageDescription

// Inner loops and BLAS glue are always optimised: they are unusable at -O0, and debug builds only
// mean to add checks. Instruction sets are chosen at run time inside CKernels, never by flags here.
let cOptimised: [CSetting] = [.unsafeFlags(["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"])]

let swiftSettings: [SwiftSetting] = [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]

let package = Package(
    name: "seqtrain",
    products: [.executable(name: "seqtrain", targets: ["seqtrain"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.0.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
    ],
    targets: [
        .systemLibrary(name: "COpenMPI", pkgConfig: "ompi-c", providers: [.apt(["libopenmpi-dev"])]),
        .target(name: "CMPI", dependencies: ["COpenMPI"]),
        .target(name: "COpenBLAS", cSettings: cOptimised, linkerSettings: [.linkedLibrary("dl")]),
        .target(name: "CKernels", cSettings: cOptimised, linkerSettings: [.linkedLibrary("m")]),
        .target(name: "Kernels", dependencies: ["CKernels", "COpenBLAS"], swiftSettings: swiftSettings),
        .target(name: "Tensors", dependencies: ["Kernels"], swiftSettings: swiftSettings),
        .target(name: "Autograd", dependencies: ["Tensors", "Kernels"], swiftSettings: swiftSettings),
        .target(name: "Models", dependencies: ["Autograd", "Tensors", "Kernels"], swiftSettings: swiftSettings),
        .target(name: "Communication", dependencies: ["CMPI"], swiftSettings: swiftSettings),
        .target(
            name: "Pipeline", dependencies: ["Models", "Autograd", "Tensors", "Kernels", "Communication"],
            swiftSettings: swiftSettings),
        .target(
            name: "Training",
            dependencies: [
                "Pipeline", "Models", "Autograd", "Tensors", "Kernels", "Communication",
                .product(name: "Yams", package: "Yams"), .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings),
        .executableTarget(
            name: "seqtrain",
            dependencies: [
                "Training", "Pipeline", "Models", "Autograd", "Tensors", "Kernels", "Communication",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings),
        .target(
            name: "TestSupport",
            dependencies: ["Pipeline", "Models", "Autograd", "Tensors", "Kernels", "Communication"],
            path: "Tests/TestSupport", swiftSettings: swiftSettings),
        .testTarget(name: "KernelsTests", dependencies: ["Kernels", "TestSupport"], swiftSettings: swiftSettings),
        .testTarget(
            name: "CommunicationTests", dependencies: ["Communication", "TestSupport"], swiftSettings: swiftSettings),
        .testTarget(
            name: "ModelsTests", dependencies: ["Models", "Autograd", "Tensors", "Kernels", "TestSupport"],
            swiftSettings: swiftSettings),
        .executableTarget(
            name: "FaultyRank", dependencies: ["Pipeline", "Communication"], path: "Tests/FaultyRank",
            swiftSettings: swiftSettings),
        .testTarget(
            name: "PipelineTests", dependencies: ["Pipeline", "Communication", "FaultyRank", "TestSupport"],
            exclude: ["Golden"], swiftSettings: swiftSettings),
        .testTarget(
            name: "TrainingTests",
            dependencies: [
                "Training", "Pipeline", "Models", "Autograd", "Tensors", "Kernels", "Communication", "TestSupport",
            ],
            exclude: ["Fixtures"],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "CommandLineTests",
            dependencies: ["Training", "Pipeline", "Models", "TestSupport", "FaultyRank", "seqtrain"],
            swiftSettings: swiftSettings),
    ],
    cLanguageStandard: .c17
)
