# SPDX-License-Identifier: GPL-2.0-only
# AegisFS: builds everything through `cargo xtask`, and installs it.

CARGO    ?= cargo
XTASK     = $(CARGO) xtask
PREFIX   ?= /usr
SBINDIR  ?= $(PREFIX)/sbin
MANDIR   ?= $(PREFIX)/share/man
MODDIR   ?= $(PREFIX)/lib/modules

# Cargo's build directory.
TARGET   := $(or $(CARGO_TARGET_DIR),target)
# Cargo accepts no dot in a program's name.
TOOLS    := mkfs-aegisfs fsck-aegisfs aegisfs aegisfs-fuse

VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

.PHONY: all setup kmod tools test test-debug demo tidy coverage install install-tools install-kmod \
	install-dkms clean help

all: kmod tools

help:
	@echo 'make                 kernel module and tools'
	@echo 'make setup           fetch what builds and virtual machines need (once)'
	@echo 'make test            all tests; "cargo xtask test --help" for parts of them'
	@echo 'make test-debug      the tests in the VM on a kernel with KASAN and lockdep, built once'
	@echo 'make demo            the filesystem at work in a virtual machine, power cut included'
	@echo 'make install         module, tools and manual pages; DESTDIR= is honoured'
	@echo 'make install-dkms    module source for DKMS, which rebuilds it for every kernel'
	@echo 'make clean           remove what was built; the cache outside the checkout stays'

setup:
	$(XTASK) setup

kmod:
	$(XTASK) kmod

tools:
	$(XTASK) tools

test:
	$(XTASK) test

test-debug:
	$(XTASK) debug-kernel
	$(XTASK) test --kernel debug --only guest

demo:
	$(XTASK) demo

tidy:
	$(XTASK) tidy

coverage:
	$(XTASK) coverage

install: install-tools install-kmod

# Install what was built, without building: as root, cargo may not even be in the path.
install-tools:
	@for tool in $(TOOLS); do \
		test -x $(TARGET)/release/$$tool || \
			{ echo "$(TARGET)/release/$$tool is not built: run 'make' first" >&2; exit 1; }; \
	done
	install -d '$(DESTDIR)$(SBINDIR)' '$(DESTDIR)$(MANDIR)/man5' '$(DESTDIR)$(MANDIR)/man8'
	set -e; for tool in $(TOOLS); do \
		install -m 0755 $(TARGET)/release/$$tool \
			"$(DESTDIR)$(SBINDIR)/$$(echo $$tool | sed 's/-aegisfs/.aegisfs/')"; \
	done
	ln -sf aegisfs-fuse '$(DESTDIR)$(SBINDIR)/mount.fuse.aegisfs'
	install -m 0644 docs/man/*.5 '$(DESTDIR)$(MANDIR)/man5'
	install -m 0644 docs/man/*.8 '$(DESTDIR)$(MANDIR)/man8'

# One module for each kernel it was built for, or for KVER alone; not for the debug kernel. In a
# running system the index follows at once.
KVER ?= $(notdir $(patsubst %/,%,$(dir $(filter-out %-aegisfs-debug/aegisfs.ko, \
	$(wildcard $(TARGET)/kmod/*/aegisfs.ko)))))

install-kmod:
	@test -n '$(strip $(KVER))' || \
		{ echo "no kernel module is built: run 'make' first" >&2; exit 1; }
	set -e; for release in $(KVER); do \
		install -d "$(DESTDIR)$(MODDIR)/$$release/updates"; \
		install -m 0644 "$(TARGET)/kmod/$$release/aegisfs.ko" \
			"$(DESTDIR)$(MODDIR)/$$release/updates/aegisfs.ko"; \
		if [ -z '$(DESTDIR)' ]; then depmod "$$release"; fi; \
	done

install-dkms:
	install -d '$(DESTDIR)$(PREFIX)/src/aegisfs-$(VERSION)'
	cp -R kernel/. '$(DESTDIR)$(PREFIX)/src/aegisfs-$(VERSION)'
	sed -i 's/@VERSION@/$(VERSION)/' '$(DESTDIR)$(PREFIX)/src/aegisfs-$(VERSION)/dkms.conf'

clean:
	$(CARGO) clean
	rm -rf $(TARGET)/kmod $(TARGET)/vm $(TARGET)/guest $(TARGET)/test $(TARGET)/demo
