// SPDX-License-Identifier: GPL-2.0-only
/*
 * Traffic between two endpoints by plain sockets, for the benchmarks:
 *
 *   probe CORE echo                 answers UDP datagrams until it is killed
 *   probe CORE ask ADDRESS COUNT    COUNT requests one after the other; each round trip in ns as a u32 on stdout
 *   probe CORE drip ADDRESS         a request each millisecond until stdin ends; prints "SENT ANSWERED"
 *   probe CORE sink                 takes TCP connections until it is killed and answers each with its bytes
 *   probe CORE pour ADDRESS SECONDS one stream; prints "BYTES NANOSECONDS", as the other end received them
 *
 * A request that is not answered within three seconds ends `ask` with an error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT	7007
#define REQUEST 64
#define CHUNK	(256 * 1024)

static char buffer[CHUNK];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static int open_socket(int type, const char *peer)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct timeval patience = {.tv_sec = peer ? 10 : 0};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1;

	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (peer && inet_pton(AF_INET, peer, &address.sin_addr) != 1)
		fail("address");
	if (peer ? connect(fd, (void *)&address, sizeof(address)) : bind(fd, (void *)&address, sizeof(address)))
		fail(peer ? "connect" : "bind");
	return fd;
}

static void echo(void)
{
	int fd = open_socket(SOCK_DGRAM, NULL);
	struct sockaddr_in from;
	socklen_t size;
	ssize_t got;

	puts("ready");
	fflush(stdout);
	for (;;) {
		size = sizeof(from);
		got = recvfrom(fd, buffer, sizeof(buffer), 0, (void *)&from, &size);
		if (got >= 0)
			sendto(fd, buffer, got, 0, (void *)&from, size);
	}
}

static void ask(const char *peer, long count)
{
	int fd = open_socket(SOCK_DGRAM, peer);
	struct timeval patience = {.tv_sec = 3};
	uint32_t *took = calloc(count, sizeof(*took));
	uint64_t began;

	if (!took)
		fail("memory");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (long i = 0; i < count; i++) {
		began = now_ns();
		if (send(fd, buffer, REQUEST, 0) != REQUEST)
			fail("send");
		if (recv(fd, buffer, sizeof(buffer), 0) != REQUEST)
			fail("no answer");
		took[i] = now_ns() - began;
	}
	fwrite(took, sizeof(*took), count, stdout);
}

static void drip(const char *peer)
{
	int fd = open_socket(SOCK_DGRAM, peer);
	struct pollfd end = {.fd = 0, .events = POLLIN};
	unsigned long sent = 0, answered = 0;
	uint64_t stop = 0;

	while (!stop || (answered < sent && now_ns() < stop)) {
		if (!stop && send(fd, buffer, REQUEST, 0) == REQUEST)
			sent++;
		if (!stop && poll(&end, 1, 0) > 0)
			stop = now_ns() + 1000000000ULL;
		usleep(1000);
		while (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) == REQUEST)
			answered++;
	}
	printf("%lu %lu\n", sent, answered);
}

static void sink(void)
{
	int fd = open_socket(SOCK_STREAM, NULL), stream;
	uint64_t bytes;
	ssize_t got;

	if (listen(fd, 1))
		fail("listen");
	puts("ready");
	fflush(stdout);
	while ((stream = accept(fd, NULL, NULL)) >= 0) {
		bytes = 0;
		while ((got = recv(stream, buffer, sizeof(buffer), 0)) > 0)
			bytes += got;
		if (send(stream, &bytes, sizeof(bytes), 0) != sizeof(bytes))
			perror("send");
		close(stream);
	}
	fail("accept");
}

static void pour(const char *peer, double seconds)
{
	int fd = open_socket(SOCK_STREAM, peer);
	uint64_t began = now_ns(), bytes = 0;

	while (now_ns() - began < seconds * 1e9)
		if (send(fd, buffer, sizeof(buffer), 0) < 0)
			fail("send");
	shutdown(fd, SHUT_WR);
	if (recv(fd, &bytes, sizeof(bytes), MSG_WAITALL) != sizeof(bytes))
		fail("no answer");
	printf("%llu %llu\n", (unsigned long long)bytes, (unsigned long long)(now_ns() - began));
}

int main(int count, char **words)
{
	cpu_set_t cores;

	if (count < 3)
		return 2;
	CPU_ZERO(&cores);
	CPU_SET(atoi(words[1]), &cores);
	if (sched_setaffinity(0, sizeof(cores), &cores))
		fail("core");
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(words[2], "echo"))
		echo();
	else if (!strcmp(words[2], "sink"))
		sink();
	else if (count > 3 && !strcmp(words[2], "drip"))
		drip(words[3]);
	else if (count > 4 && !strcmp(words[2], "ask"))
		ask(words[3], atol(words[4]));
	else if (count > 4 && !strcmp(words[2], "pour"))
		pour(words[3], atof(words[4]));
	else
		return 2;
	return 0;
}
