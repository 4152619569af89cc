# The service without PyTorch. Targets: `cpu` (default) and `cuda`; and `training`, with PyTorch for the CPU, for jobs.
#   docker build --target cpu -t reslens .
#   docker run --rm -p 8000:8000 reslens                                  the models that ship
#   docker run --rm -p 8000:8000 -v "$PWD/models/store:/models:ro" reslens    your own
#   docker run --rm -p 8000:8000 -v reslens-data:/data reslens                the history of live traffic kept
#   docker build --target training -t reslens-training . && docker run --rm reslens-training retrain --help
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS source
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service

FROM source AS build-cpu
RUN python -m venv /opt/reslens \
    && /opt/reslens/bin/pip install --no-cache-dir '.[gcs,otel,postgres,s3]' \
    && rm -rf /opt/reslens/lib/python*/site-packages/models/store \
    # A CPU image has no use for the providers of other devices, half a gigabyte of them.
    && rm -f /opt/reslens/lib/python*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so \
             /opt/reslens/lib/python*/site-packages/onnxruntime/capi/libonnxruntime_providers_tensorrt.so

FROM source AS build-cuda
RUN python -m venv /opt/reslens \
    && /opt/reslens/bin/pip install --no-cache-dir '.[cuda,gcs,otel,postgres,s3]' \
    && rm -rf /opt/reslens/lib/python*/site-packages/models/store

FROM source AS build-training
COPY training training
# From an index that has no builds for CPUs alone PyTorch comes with CUDA, gigabytes of it: name one that has.
ARG TORCH_INDEX=
RUN python -m venv /opt/reslens \
    && /opt/reslens/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[training]' \
    && rm -rf /opt/reslens/lib/python*/site-packages/models/store

FROM ${BASE} AS training
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin reslens
COPY --from=build-training /opt/reslens /opt/reslens
# What libraries write beside, where there is no home: the root may be read-only, /tmp may not.
ENV HOME=/tmp PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE PATH=/opt/reslens/bin:$PATH
USER 10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]

FROM ${BASE} AS runtime
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin reslens
COPY models/store /models
# The history of live traffic: of the user who writes it, in a volume of its own.
RUN install -d -o 10001 -g 10001 /data
VOLUME /data
# It listens to everyone and asks for no key until it is told to: so nobody loads or unloads until that is allowed.
ENV RESLENS_MODEL_CONTROL=none
ENV HOST=0.0.0.0 PORT=8000 RESLENS_MODEL_REPOSITORY=/models RESLENS_DATA_DIRECTORY=/data PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 PATH=/opt/reslens/bin:$PATH
USER 10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
COPY deploy/ready.py /opt/ready.py
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "/opt/ready.py"]
CMD ["python", "-m", "service"]

FROM runtime AS cuda
ENV RESLENS_PROVIDER=cuda
COPY --from=build-cuda /opt/reslens /opt/reslens

FROM runtime AS cpu
ENV RESLENS_PROVIDER=cpu NUMBA_CACHE_DIR=/var/cache/reslens
COPY --from=build-cpu /opt/reslens /opt/reslens
USER 0
RUN install -d -o reslens /var/cache/reslens
USER 10001
# What numba compiles at the first start is made here, by a start of the very image, and found again where the processor is
# of the same kind. Elsewhere it is compiled once more, for some seconds, and kept in the same directory; where that cannot
# be written, at every start.
RUN RESLENS_HISTORY_URL= RESLENS_WORKERS=0 python -m service & service=$! \
    && for second in $(seq 120); do python /opt/ready.py && break; sleep 1; done \
    && python /opt/ready.py && kill $service && { wait $service || true; } && ls /var/cache/reslens/planes-*.o
