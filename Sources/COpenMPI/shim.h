// Exists for its pkg-config flags only (see Package.swift). CMPI includes mpi.h itself; no Swift file
// imports this module, so that no MPI macro reaches Swift.
#pragma once
