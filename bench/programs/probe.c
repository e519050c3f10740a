// SPDX-License-Identifier: GPL-2.0-only
/*
 * Traffic between two endpoints by plain sockets, for the benchmarks:
 *
 *   probe CORE echo ADDRESS                 answers UDP datagrams until it is killed
 *   probe CORE ask ADDRESS COUNT            COUNT requests one by one; each round trip in ns as a u32 on stdout
 *   probe CORE drip ADDRESS                 a request each millisecond until stdin ends; prints "SENT ANSWERED"
 *   probe CORE sink ADDRESS                 takes TCP connections until it is killed and answers each with its bytes
 *   probe CORE pour ADDRESS SECONDS STREAMS so many streams at a time; prints "BYTES NANOSECONDS", as received
 *   probe CORE count ADDRESS                counts UDP datagrams until it is killed and tells how many when asked
 *   probe CORE flood ADDRESS SECONDS        datagrams as fast as possible; prints "SENT RECEIVED NANOSECONDS"
 *
 * CORE is a number, or `any` to leave the choice to the scheduler. Servers get their own address, IPv4 or IPv6, the
 * others that of their server. A request without an answer within three seconds, or a count within five, is an error.
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT	7007
#define REQUEST 64
#define CHUNK	(256 * 1024)
#define STREAMS 64
#define QUEUE	(8 << 20)

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

static int open_socket(int type, const char *address, int server)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct timeval patience = {.tv_sec = server ? 0 : 10};
	int ipv6 = strchr(address, ':') != NULL, on = 1, fd;
	void *found = ipv6 ? (void *)&six : (void *)&four;
	socklen_t size = ipv6 ? sizeof(six) : sizeof(four);

	fd = socket(ipv6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (inet_pton(ipv6 ? AF_INET6 : AF_INET, address, ipv6 ? (void *)&six.sin6_addr : (void *)&four.sin_addr) != 1)
		fail("address");
	if (server ? bind(fd, found, size) : connect(fd, found, size))
		fail(server ? "bind" : "connect");
	return fd;
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static void echo(const char *own)
{
	int fd = open_socket(SOCK_DGRAM, own, 1);
	struct sockaddr_storage from;
	socklen_t size;
	ssize_t got;

	ready();
	for (;;) {
		size = sizeof(from);
		got = recvfrom(fd, buffer, sizeof(buffer), 0, (void *)&from, &size);
		if (got >= 0)
			sendto(fd, buffer, got, 0, (void *)&from, size);
	}
}

static void ask(const char *peer, long count)
{
	int fd = open_socket(SOCK_DGRAM, peer, 0);
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
	int fd = open_socket(SOCK_DGRAM, peer, 0);
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

static void take_stream(int stream)
{
	uint64_t bytes = 0;
	ssize_t got;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while ((got = recv(stream, buffer, sizeof(buffer), 0)) > 0)
		bytes += got;
	if (send(stream, &bytes, sizeof(bytes), 0) != sizeof(bytes))
		fail("send");
	exit(0);
}

static void sink(const char *own)
{
	int fd = open_socket(SOCK_STREAM, own, 1), stream;

	signal(SIGCHLD, SIG_IGN);
	if (listen(fd, STREAMS))
		fail("listen");
	ready();
	while ((stream = accept(fd, NULL, NULL)) >= 0) {
		if (!fork())
			take_stream(stream);
		close(stream);
	}
	fail("accept");
}

static void pour_stream(int fd, uint64_t end, int result)
{
	uint64_t bytes = 0;

	while (now_ns() < end)
		if (send(fd, buffer, sizeof(buffer), 0) < 0)
			fail("send");
	shutdown(fd, SHUT_WR);
	if (recv(fd, &bytes, sizeof(bytes), MSG_WAITALL) != sizeof(bytes))
		fail("no answer");
	if (write(result, &bytes, sizeof(bytes)) != sizeof(bytes))
		fail("write");
	exit(0);
}

static void pour(const char *peer, double seconds, int streams)
{
	uint64_t began, bytes, sum = 0;
	int fds[STREAMS], results[2];

	if (streams < 1 || streams > STREAMS || pipe(results))
		fail("streams");
	for (int i = 0; i < streams; i++)
		fds[i] = open_socket(SOCK_STREAM, peer, 0);
	began = now_ns();
	for (int i = 0; i < streams; i++)
		if (!fork())
			pour_stream(fds[i], began + seconds * 1e9, results[1]);
	close(results[1]);
	for (int i = 0; i < streams; i++) {
		if (read(results[0], &bytes, sizeof(bytes)) != sizeof(bytes))
			fail("a stream");
		sum += bytes;
	}
	printf("%llu %llu\n", (unsigned long long)sum, (unsigned long long)(now_ns() - began));
}

static void count(const char *own)
{
	int fd = open_socket(SOCK_DGRAM, own, 1), queue = QUEUE;
	struct sockaddr_storage from;
	uint64_t received = 0;
	socklen_t size;
	ssize_t got;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &queue, sizeof(queue));
	ready();
	for (;;) {
		size = sizeof(from);
		got = recvfrom(fd, buffer, sizeof(buffer), 0, (void *)&from, &size);
		if (got == REQUEST)
			received++;
		else if (got == 1)
			sendto(fd, &received, sizeof(received), 0, (void *)&from, size);
	}
}

/* Asks again where the question finds a full queue; by a socket of its own, so that no answer is to an older one. */
static uint64_t received_until_now(const char *peer)
{
	int fd = open_socket(SOCK_DGRAM, peer, 0);
	struct timeval patience = {.tv_usec = 200000};
	uint64_t received;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (int i = 0; i < 25; i++) {
		if (send(fd, buffer, 1, 0) != 1)
			fail("send");
		if (recv(fd, &received, sizeof(received), 0) == sizeof(received)) {
			close(fd);
			return received;
		}
	}
	fail("no answer");
	return 0;
}

static void flood(const char *peer, double seconds)
{
	int fd = open_socket(SOCK_DGRAM, peer, 0);
	uint64_t before = received_until_now(peer), began = now_ns(), sent = 0;

	while (now_ns() - began < seconds * 1e9)
		for (int i = 0; i < 64; i++)
			sent += send(fd, buffer, REQUEST, 0) == REQUEST;
	printf("%llu %llu ", (unsigned long long)sent, (unsigned long long)(received_until_now(peer) - before));
	printf("%llu\n", (unsigned long long)(now_ns() - began));
}

static void run_on(const char *core)
{
	cpu_set_t cores;

	if (!strcmp(core, "any"))
		return;
	CPU_ZERO(&cores);
	CPU_SET(atoi(core), &cores);
	if (sched_setaffinity(0, sizeof(cores), &cores))
		fail("core");
}

int main(int words_count, char **words)
{
	const char *mode = words_count > 3 ? words[2] : "", *address = words_count > 3 ? words[3] : "";

	if (words_count > 1)
		run_on(words[1]);
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(mode, "echo"))
		echo(address);
	else if (!strcmp(mode, "sink"))
		sink(address);
	else if (!strcmp(mode, "count"))
		count(address);
	else if (!strcmp(mode, "drip"))
		drip(address);
	else if (!strcmp(mode, "ask") && words_count > 4)
		ask(address, atol(words[4]));
	else if (!strcmp(mode, "flood") && words_count > 4)
		flood(address, atof(words[4]));
	else if (!strcmp(mode, "pour") && words_count > 5)
		pour(address, atof(words[4]), atoi(words[5]));
	else
		return 2;
	return 0;
}
