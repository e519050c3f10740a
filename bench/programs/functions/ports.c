/* SPDX-License-Identifier: GPL-2.0-only */
/* A function that reads the ports and drops what goes to one of them. */
#include "stage.h"

int stage_function(struct stage *stage)
{
	__u16 source, destination;

	if (stage_ports(stage, &source, &destination))
		return STAGE_GO_ON;
	return destination == 23 ? STAGE_DROP : STAGE_GO_ON;
}
