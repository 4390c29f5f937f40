.PHONY: demo test

# Builds, pushes, pulls back and runs an image, against a real registry on this machine.
demo:
	@testdata/demo/run.sh

# Everything that must hold before a change is taken.
test:
	@.ci/run
