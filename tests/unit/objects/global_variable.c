/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* An object that its reader refuses: global_variable.o is made as closed_port.o is. */
#include "stage.h"
static int counter;
int stage_function(struct stage *stage)
{
	counter++;
	return counter > 5 ? STAGE_DROP : STAGE_GO_ON;
}
