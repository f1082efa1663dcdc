/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * console: echoes every byte typed at the UART, by its receive interrupt. A line that is just "quit" powers off, one
 * that is just "panic" panics; a line ends with a carriage return or a newline, echoed as both.
 */
#include "board.h"
#include "print.h"
#include "trap.h"

/* ns16550a registers */
#define RBR 0
#define IER 1
#define FCR 2
#define LSR 5
#define IER_RECEIVE 1
#define FCR_ENABLE 1
#define LSR_READY 1

static struct {
    char text[16];
    u32 length;                      /* of the line so far, also beyond what is kept */
} line;

static bool line_is(const char *word)
{
    return line.length == strlen(word) && memcmp(line.text, word, line.length) == 0;
}

static void line_ended(void)
{
    print("\r\n");
    if (line_is("quit"))
        power_off();
    if (line_is("panic"))
        panic("told to");
    line.length = 0;
}

static void typed(char c)
{
    if (c == '\r' || c == '\n') {
        line_ended();
        return;
    }
    print_text(&c, 1);
    if (line.length < sizeof line.text)
        line.text[line.length] = c;
    line.length++;
}

static void receive(void *argument)
{
    (void)argument;
    while (R8(board.uart + LSR) & LSR_READY)
        typed((char)R8(board.uart + RBR));
}

void guest_main(void)
{
    if (!board.uart)
        panic("console: no ns16550a UART in the device tree");
    irq_attach(board.uart_irq, receive, 0);
    R8(board.uart + FCR) = FCR_ENABLE;
    R8(board.uart + IER) = IER_RECEIVE;
    print("console: ready\r\n");
    for (;;)
        idle();
}
