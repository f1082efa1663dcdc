/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * netecho: answers at one IPv4 address, in the buffer that the question came in:
 *
 *   ARP request for us       reply
 *   ICMP echo request        echo reply
 *   UDP to port 7            the datagram back
 *   ethertype 0x88b5         the frame back (IEEE 802 local experimental: an echo without any IP)
 *
 * Everything else is dropped, so are fragments, IP options and wrong checksums. The hardware address is the device's.
 * Boot arguments: ip=A.B.C.D (10.0.2.15).
 */
#include "board.h"
#include "print.h"
#include "trap.h"
#include "virtio_net.h"

#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_ECHO 0x88b5

/* Offsets in a frame: Ethernet (IEEE 802.3), then ARP (RFC 826) or IPv4 (RFC 791) with ICMP (RFC 792) or UDP (RFC 768) */
#define ETH_TO 0
#define ETH_FROM 6
#define ETH_TYPE 12
#define ETH_END 14
#define ARP_KIND (ETH_END + 0)       /* hardware and protocol type, address lengths: 0001 0800 06 04 */
#define ARP_OPERATION (ETH_END + 6)
#define ARP_SENDER_MAC (ETH_END + 8)
#define ARP_SENDER_IP (ETH_END + 14)
#define ARP_TARGET_MAC (ETH_END + 18)
#define ARP_TARGET_IP (ETH_END + 24)
#define ARP_END (ETH_END + 28)
#define IP_VERSION (ETH_END + 0)
#define IP_TOTAL (ETH_END + 2)
#define IP_FRAGMENT (ETH_END + 6)
#define IP_TTL (ETH_END + 8)
#define IP_PROTOCOL (ETH_END + 9)
#define IP_CHECKSUM (ETH_END + 10)
#define IP_SOURCE (ETH_END + 12)
#define IP_TARGET (ETH_END + 16)
#define IP_END (ETH_END + 20)
#define ICMP_TYPE (IP_END + 0)
#define ICMP_CHECKSUM (IP_END + 2)
#define UDP_SOURCE (IP_END + 0)
#define UDP_TARGET (IP_END + 2)
#define L4_HEADER 8

#define ARP_ETHERNET_IPV4 0x0001080006040000UL
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define VERSION_4_NO_OPTIONS 0x45
#define FRAGMENT_MASK 0x3fff         /* "more fragments" and the offset */
#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP 17
#define ICMP_ECHO_REQUEST 8
#define ICMP_ECHO_REPLY 0
#define ECHO_PORT 7
#define TTL 64

static u8 mac[NET_MAC_BYTES];
static u32 ip = 0x0a00020f;

static bool for_us(const u8 *f) { return memcmp(f + ETH_TO, mac, NET_MAC_BYTES) == 0; }

static void return_to_sender(u8 *f)
{
    memcpy(f + ETH_TO, f + ETH_FROM, NET_MAC_BYTES);
    memcpy(f + ETH_FROM, mac, NET_MAC_BYTES);
}

/* The Internet checksum (RFC 1071) of an area; 0 when it contains its own, right one. */
static u16 checksum(const u8 *p, u32 length)
{
    u32 sum = 0;
    for (; length > 1; p += 2, length -= 2)
        sum += get_be16(p);
    if (length)
        sum += (u32)p[0] << 8;
    sum = (sum & 0xffff) + (sum >> 16);
    return (u16)~(sum + (sum >> 16));
}

static bool arp(u8 *f, u32 length)
{
    if (length < ARP_END || get_be64(f + ARP_KIND) != (ARP_ETHERNET_IPV4 | ARP_REQUEST) ||
        get_be32(f + ARP_TARGET_IP) != ip)
        return false;
    return_to_sender(f);
    put_be16(f + ARP_OPERATION, ARP_REPLY);
    memcpy(f + ARP_TARGET_MAC, f + ARP_SENDER_MAC, NET_MAC_BYTES + 4);
    memcpy(f + ARP_SENDER_MAC, mac, NET_MAC_BYTES);
    put_be32(f + ARP_SENDER_IP, ip);
    return true;
}

static bool icmp(u8 *f, u32 length)
{
    if (f[ICMP_TYPE] != ICMP_ECHO_REQUEST || checksum(f + ICMP_TYPE, length))
        return false;
    f[ICMP_TYPE] = ICMP_ECHO_REPLY;
    put_be16(f + ICMP_CHECKSUM, 0);
    put_be16(f + ICMP_CHECKSUM, checksum(f + ICMP_TYPE, length));
    return true;
}

static bool udp(u8 *f)
{
    u32 from = get_be16(f + UDP_SOURCE);
    if (get_be16(f + UDP_TARGET) != ECHO_PORT || from == ECHO_PORT)      /* two echoes would never end */
        return false;
    put_be16(f + UDP_SOURCE, ECHO_PORT);                   /* the checksum does not see a swap */
    put_be16(f + UDP_TARGET, from);
    return true;
}

static bool ipv4(u8 *f, u32 length)
{
    if (!for_us(f) || length < IP_END + L4_HEADER || f[IP_VERSION] != VERSION_4_NO_OPTIONS)
        return false;
    u32 total = get_be16(f + IP_TOTAL), payload = total - (IP_END - ETH_END);
    if (total < IP_END - ETH_END + L4_HEADER || total > length - ETH_END || checksum(f + ETH_END, IP_END - ETH_END))
        return false;
    if (get_be32(f + IP_TARGET) != ip || (get_be16(f + IP_FRAGMENT) & FRAGMENT_MASK))
        return false;
    bool answered = (f[IP_PROTOCOL] == PROTOCOL_ICMP && icmp(f, payload)) || (f[IP_PROTOCOL] == PROTOCOL_UDP && udp(f));
    if (!answered)
        return false;
    put_be32(f + IP_TARGET, get_be32(f + IP_SOURCE));
    put_be32(f + IP_SOURCE, ip);
    f[IP_TTL] = TTL;
    put_be16(f + IP_CHECKSUM, 0);
    put_be16(f + IP_CHECKSUM, checksum(f + ETH_END, IP_END - ETH_END));
    return_to_sender(f);
    return true;
}

/* Turns a frame into its answer, of the same length; false when there is none. */
static bool answer(u8 *f, u32 length)
{
    if (length < ETH_END)
        return false;
    switch (get_be16(f + ETH_TYPE)) {
    case TYPE_ARP:
        return arp(f, length);
    case TYPE_IPV4:
        return ipv4(f, length);
    case TYPE_ECHO:
        if (!for_us(f))
            return false;
        return_to_sender(f);
        return true;
    default:
        return false;
    }
}

static void set_ip(const char *text)
{
    u32 value = 0, part = 0;
    for (; text && *text && *text != ' '; text++) {
        if (*text == '.')
            value = value << 8 | part, part = 0;
        else
            part = part * 10 + (u32)(*text - '0');
    }
    if (text)
        ip = value << 8 | part;
}

static bool turn(void)
{
    struct net_buffer *b;
    bool did = net_reap();
    for (; (b = net_receive()); did = true) {
        if (answer(b->frame, b->length))
            net_send(b);
        else
            net_release(b);
    }
    net_kick();
    return did;
}

void guest_main(void)
{
    set_ip(argument_text("ip"));
    net_open(mac);
    print("netecho: ready, %u.%u.%u.%u at ", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
    for (u32 i = 0; i < NET_MAC_BYTES; i++)
        print("%s%x%x", i ? ":" : "", mac[i] >> 4, mac[i] & 15);
    print("\n");
    for (;;) {
        net_disarm();
        while (turn()) {
        }
        if (!net_arm())
            idle();
    }
}
