/* SPDX-License-Identifier: GPL-2.0-only */
/* A function that does nothing. */
#include "stage.h"

int stage_function(struct stage *stage)
{
	return STAGE_GO_ON;
}
