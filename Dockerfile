# inrflow in a container, with the versions of constraints.txt:
#
#   docker build -t inrflow .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" inrflow demo --quick
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" --gpus all inrflow doctor
#
# pip's own build of torch has CUDA on x86-64. TORCH_INDEX is the address of an index with another build, as PyTorch's page of
# installation names it, such as the one for CPUs alone, whose image is some gigabytes smaller:
#
#   docker build -t inrflow --build-arg TORCH_INDEX=ADDRESS .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm
ARG TORCH_INDEX=
ARG EXTRAS=onnx,pretrained,tensorboard,video,view

# What Open3D loads.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libgomp1 libusb-1.0-0 libx11-6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch; fi
COPY pyproject.toml README.md LICENSE ./
COPY presets presets
COPY inrflow_core inrflow_core
COPY inrflow_cli inrflow_cli
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

# Data, runs and samples are in the working folder; the user may have any number, also one without a name.
ENV HOME=/tmp USER=inrflow
WORKDIR /work
RUN python -m inrflow_core.geometry.open3d_import && inrflow doctor --no-test
ENTRYPOINT ["inrflow"]
CMD ["--help"]
