# Pageglass, for every profile: EXTRAS="" is the profile lite, without torch; EXTRAS=models adds the
# models of the profiles cpu and gpu.

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=""
# For wheels that are elsewhere, as torch without CUDA; pip reads it from the environment.
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH

# Dependencies first: they are in a layer of their own, which a change of the code leaves as it is.
COPY pyproject.toml constraints.txt ./
RUN python -c "import sys, tomllib; \
    project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = [line for name in sys.argv[1:] for line in project['optional-dependencies'][name]]; \
    print(*project['dependencies'], *extras, sep='\n')" $EXTRAS > requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt

COPY README.md LICENSE NOTICE ./
COPY pageglass pageglass
COPY retrieval retrieval
COPY ingest ingest
COPY generate generate
COPY api api
COPY evals evals
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps . && pip check


# No packages of the system: every wheel brings its libraries, down to libstdc++, which is here.
FROM python:3.11-slim-bookworm
# The only places that are written to, so that the rest can be read-only; new volumes take over
# their owner.
RUN groupadd --gid 10001 pageglass \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pageglass \
    && install -d -o pageglass -g pageglass /data /models
COPY --from=build /venv /venv
# pip has compiled what it installed; nothing more can be.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    PAGEGLASS_DATA_DIR=/data \
    PAGEGLASS_SERVER__HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8321/readyz', timeout=4)"]
ENTRYPOINT ["pageglass"]
CMD ["serve"]
