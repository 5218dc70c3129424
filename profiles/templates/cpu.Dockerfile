# rigbench without GPUs. In a clone of its repository:
#   rigbench profiles --template cpu-docker > cpu.Dockerfile
#   docker build -f cpu.Dockerfile -t rigbench-cpu .
#   docker run --rm -v rigbench:/home/rigbench/runs rigbench-cpu run --quick
FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 rigbench
WORKDIR /opt/rigbench
COPY . .
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
  && pip install --no-cache-dir .
USER 1000
ENV RIGBENCH_HOME=/home/rigbench/runs
RUN mkdir /home/rigbench/runs
VOLUME /home/rigbench/runs
ENTRYPOINT ["rigbench"]
CMD ["run", "--quick"]
