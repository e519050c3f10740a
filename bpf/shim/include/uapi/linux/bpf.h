/* SPDX-License-Identifier: GPL-2.0-only */
/* Empty: bcc brings its own copy of the BPF definitions. */
