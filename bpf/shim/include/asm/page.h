/* SPDX-License-Identifier: GPL-2.0-only */
/* bcc's headers name it; no program of ours uses a page. */
#ifndef DROPLET_SHIM_PAGE_H
#define DROPLET_SHIM_PAGE_H

#define PAGE_SIZE 4096UL

#endif
