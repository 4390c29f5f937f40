//! Builds container images from Dockerfiles without a daemon.
