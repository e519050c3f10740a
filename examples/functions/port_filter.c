#include "stage.h"

#define MOST_PORTS 64
#define BLOCKED	   1 /* the reason for which this function drops */

BPF_ARRAY(packets, __u64, 65536); /* by destination port */

int stage_function(struct stage *stage)
{
	const __be16 *blocked = stage_configuration(stage);
	__u16 source, destination;
	__u64 *count;
	int port, i;

	if (stage_ports(stage, &source, &destination))
		return STAGE_GO_ON; /* not TCP, UDP or SCTP, or a later fragment */
	port = destination;
	count = packets.lookup(&port);
	if (count)
		__sync_fetch_and_add(count, stage->packets);
	for (i = 0; i < MOST_PORTS && blocked[i]; i++) {
		if (STAGE_SWAP16(blocked[i]) == destination) {
			stage->reason = BLOCKED;
			return STAGE_DROP;
		}
	}
	return STAGE_GO_ON;
}
