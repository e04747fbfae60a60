//! Back-pressure, fairness and limits: conformance C.
