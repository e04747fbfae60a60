//! Floor 3: slow work on a current-thread tokio runtime. It may wait and allocate.
