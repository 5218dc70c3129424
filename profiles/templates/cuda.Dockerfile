# rigbench with CUDA. In a clone of its repository, on a host with the NVIDIA container toolkit:
#   rigbench profiles --template cuda-docker > cuda.Dockerfile
#   docker build -f cuda.Dockerfile -t rigbench-cuda .
#   docker run --rm --gpus all --ipc host -v rigbench:/home/rigbench/runs rigbench-cuda run --quick
# --ipc host: NCCL and the data loader's workers share memory. The driver is the host's; torch brings its own CUDA.
FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 rigbench
WORKDIR /opt/rigbench
COPY . .
RUN pip install --no-cache-dir torch==2.13.0 \
  && pip install --no-cache-dir .
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
ENV RIGBENCH_HOME=/home/rigbench/runs
RUN mkdir /home/rigbench/runs
VOLUME /home/rigbench/runs
ENTRYPOINT ["rigbench"]
CMD ["run", "--quick"]
