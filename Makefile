# `make run` and `make test` are all a newcomer needs; both keep to .venv in this directory.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Newer pips know a variable of its own for the build back end; older ones take the first for both.
PIP    := PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check
ARGS   ?=
WORKERS ?= 2

# Where `make install` puts what (docs/systemd.md); DESTDIR is the root of an image, and no part of what is written into files.
PREFIX     ?= /opt
SYSCONFDIR ?= /etc
APPDIR     ?= $(if $(filter /opt,$(PREFIX)),/opt/smtp-bridge,$(PREFIX)/lib/smtp-bridge)
BINDIR     ?= $(if $(filter /opt,$(PREFIX)),/usr/local/bin,$(PREFIX)/bin)
UNITDIR    ?= $(if $(filter /usr,$(PREFIX)),/usr/lib/systemd/system,/usr/local/lib/systemd/system)
CONFDIR    := $(SYSCONFDIR)/smtp-bridge
PACKAGE    ?= .
COMMANDS   := smtp-bridge smtp-bridge-sendmail
UNITS      := smtp-bridge.service smtp-bridge.socket smtp-bridge@.socket

.PHONY: run test check bench dist install uninstall clean

run: $(VENV)/.installed
	$(BIN)/smtp-bridge demo $(ARGS)

# Two at a time, then those that measure time, with none beside them. With ARGS one process runs what they name.
test: $(VENV)/.test-installed
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not serial'
	$(BIN)/python -m pytest -m serial
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict bridge
	$(BIN)/python -m pytest tests/test_layout.py

bench: $(VENV)/.test-installed
	$(BIN)/python -m tests.bench $(ARGS)
	$(BIN)/python -m tests.bench.spool_depth
	$(BIN)/python -m tests.bench.history

# A source archive, and the wheel as a packager would build it from that archive.
dist: $(VENV)/.installed
	rm -rf dist && mkdir -p dist/tree
	$(PIP) hatchling
	$(BIN)/hatchling build -t sdist -d dist
	tar -xzf dist/*.tar.gz -C dist/tree --strip-components 1
	cd dist/tree && $(abspath $(BIN))/hatchling build -t wheel -d ..
	rm -r dist/tree

# What is known against the versions of constraints.txt. It asks a service on the internet; --strict: what could not be asked is a failure.
.PHONY: audit
audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(PIP) -e '.[test]'
	-command -v npm >/dev/null && npm install --silent --no-save --no-package-lock --prefix $(VENV)/node nodemailer@7 emulate@0.12.2 node@24 axe-core@4.14.1
	touch $@

# PACKAGE: what pip is told to install, with its options. Units with secrets and paths of their own belong into drop-ins: those
# here are written anew each time. Beside /etc the daemon does not look for settings, unless it is told.
install:
	umask 022 && $(PYTHON) -m venv $(DESTDIR)$(APPDIR)
	umask 022 && PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt \
	  $(DESTDIR)$(APPDIR)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGE)
ifneq ($(DESTDIR),)
	grep -rlIF '$(DESTDIR)$(APPDIR)' $(DESTDIR)$(APPDIR)/bin $(DESTDIR)$(APPDIR)/pyvenv.cfg \
	  | xargs sed -i 's|$(DESTDIR)$(APPDIR)|$(APPDIR)|g'
endif
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(CONFDIR)
	install -d -m 0700 $(DESTDIR)$(CONFDIR)/secrets
	for name in $(COMMANDS); do ln -sfn $(APPDIR)/bin/$$name $(DESTDIR)$(BINDIR)/$$name || exit 1; done
	install -m 0644 config.example.toml $(DESTDIR)$(CONFDIR)/config.example.toml
	for name in $(UNITS); do \
	  sed -e 's|/opt/smtp-bridge|$(APPDIR)|g' -e 's|/etc/smtp-bridge|$(CONFDIR)|g' systemd/$$name > $(DESTDIR)$(UNITDIR)/$$name \
	  && chmod 0644 $(DESTDIR)$(UNITDIR)/$$name || exit 1; \
	done
ifneq ($(SYSCONFDIR),/etc)
	sed -i 's|^EnvironmentFile=|Environment=SMTP_BRIDGE_CONFIG=$(CONFDIR)/config.toml\n&|' $(DESTDIR)$(UNITDIR)/smtp-bridge.service
endif
	@echo "Write $(CONFDIR)/config.toml (config.example.toml beside it has every key), then:"
	@echo "  systemctl daemon-reload && systemctl enable --now smtp-bridge"

# What `install` made and nothing else: settings, secrets and the spool stay. Stop the service first.
uninstall:
	for name in $(COMMANDS); do \
	  test "$$(readlink $(DESTDIR)$(BINDIR)/$$name)" != $(APPDIR)/bin/$$name || rm $(DESTDIR)$(BINDIR)/$$name || exit 1; \
	done
	for name in $(UNITS); do rm -f $(DESTDIR)$(UNITDIR)/$$name || exit 1; done
	test ! -e $(DESTDIR)$(APPDIR)/pyvenv.cfg || rm -r $(DESTDIR)$(APPDIR)
	rm -f $(DESTDIR)$(CONFDIR)/config.example.toml
	for name in $(CONFDIR)/secrets $(CONFDIR); do test ! -d $(DESTDIR)$$name || rmdir --ignore-fail-on-non-empty $(DESTDIR)$$name; done
	@echo "Kept, if it is there: $(CONFDIR), and the spool in /var/lib/smtp-bridge."

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
