/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The C half of the trap vector (start.S), the PLIC, and panic.
 *
 *   PLIC offset               meaning (SiFive PLIC, RISC-V PLIC specification 1.0.0)
 *   0x000000 + 4*irq          priority
 *   0x002000 + 0x80*context   enable bits
 *   0x200000 + 0x1000*context threshold, then claim/complete at +4
 */
#include "trap.h"
#include "print.h"
#include "sbi.h"

#define PLIC_PRIORITY(irq) (plic + 4UL * (irq))
#define PLIC_ENABLE(irq) (plic + 0x2000 + 0x80UL * plic_context + 4UL * ((irq) / 32))
#define PLIC_THRESHOLD (plic + 0x200000 + 0x1000UL * plic_context)
#define PLIC_CLAIM (PLIC_THRESHOLD + 4)

#define CAUSE_INTERRUPT (1UL << 63)
#define CAUSE_TIMER (CAUSE_INTERRUPT | 5)
#define CAUSE_EXTERNAL (CAUSE_INTERRUPT | 9)

#define IRQS 64

static u64 plic;
static u32 plic_context;
static struct {
    irq_handler handler;
    void *argument;
} irqs[IRQS];
static void (*on_timer)(void);
static bool panicking;

extern u64 stack_limit[];            /* the stack's lowest word (start.S), where nobody should ever get */
#define CANARY 0x5afe57ac5afe57acUL

/* start.S calls these two. */
void trap_taken(u64 cause, u64 pc, u64 value);
void trap_stack_overflow(u64 cause, u64 pc, u64 sp) __attribute__((noreturn));

void trap_init(void) { stack_limit[0] = CANARY; }

void irq_init(u64 plic_base, u32 context)
{
    plic = plic_base;
    plic_context = context;
    R32(PLIC_THRESHOLD) = 0;
    csr_set(sie, SIE_SEIE);
}

void irq_attach(u32 irq, irq_handler handler, void *argument)
{
    if (!plic || irq == 0 || irq >= IRQS)
        panic("irq: no PLIC in the device tree, or interrupt %u is out of range", irq);
    irqs[irq].handler = handler;
    irqs[irq].argument = argument;
    R32(PLIC_PRIORITY(irq)) = 1;
    R32(PLIC_ENABLE(irq)) |= 1U << (irq % 32);
}

void timer_attach(void (*handler)(void))
{
    on_timer = handler;
    csr_set(sie, SIE_STIE);
}

static void external(void)
{
    /* One claim a trap: when another interrupt waits, the hart traps again, which is cheaper than a fruitless claim. */
    u32 irq = R32(PLIC_CLAIM);
    if (irq == 0)
        return;
    if (irq >= IRQS || !irqs[irq].handler)
        panic("irq: nobody handles interrupt %u", irq);
    irqs[irq].handler(irqs[irq].argument);
    R32(PLIC_CLAIM) = irq;
}

void trap_taken(u64 cause, u64 pc, u64 value)
{
    if (cause == CAUSE_EXTERNAL)
        external();
    else if (cause == CAUSE_TIMER && on_timer)
        on_timer();
    else
        panic("trap: cause %lx, pc %lx, stval %lx", cause, pc, value);
}

void trap_stack_overflow(u64 cause, u64 pc, u64 sp)
{
    panic("stack overflow: sp %lx, cause %lx, pc %lx", sp, cause, pc);
}

void idle(void)
{
    if (stack_limit[0] != CANARY)
        panic("stack overflow: the word at its limit is %lx", stack_limit[0]);
    __asm__ volatile("wfi" ::: "memory");
    csr_set(sstatus, SSTATUS_SIE);               /* a pending interrupt is taken here */
    csr_clear(sstatus, SSTATUS_SIE);
}

void panic(const char *format, ...)
{
    csr_clear(sstatus, SSTATUS_SIE);
    if (!panicking) {
        va_list list;
        panicking = true;
        print("panic: ");
        va_start(list, format);
        print_list(format, list);
        va_end(list);
        print("\n");
    }
    sbi_shutdown(true);
}

void power_off(void) { sbi_shutdown(false); }
