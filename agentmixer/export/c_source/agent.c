
/* From here on it is written by agentmixer. */

#include "policy.h"

#if AGENT_MEMORY
static float agent_memory[AGENT_MEMORY];
#endif

static int agent_fallback(agent_action *action, int why)
{
    static const agent_action fallback[AGENT_ACTION] = AGENT_FALLBACK;

    for (int i = 0; i < AGENT_ACTION; ++i) {
        action[i] = fallback[i];
    }
    return why;
}

static bool agent_finite(const float *numbers, int count)
{
    for (int i = 0; i < count; ++i) {
        if (!isfinite(numbers[i])) {
            return false;
        }
    }
    return true;
}

void agent_reset(void)
{
#if AGENT_MEMORY
    for (int i = 0; i < AGENT_MEMORY; ++i) {
        agent_memory[i] = 0.0f;
    }
#endif
}

#if AGENT_NOISE
int agent_act(const float *obs, const bool *mask, const float *noise, agent_action *action)
#else
int agent_act(const float *obs, const bool *mask, agent_action *action)
#endif
{
    agent_chosen chosen[AGENT_ACTION];
    float scores[AGENT_SCORES];
#if AGENT_MEMORY
    float memory[AGENT_MEMORY];
#endif

    if (!agent_finite(obs, AGENT_OBS)) {
        return agent_fallback(action, AGENT_OBS_NOT_FINITE);
    }
    policy((const void *)obs,
#if AGENT_MASK
           (const void *)mask,
#endif
#if AGENT_NOISE
           (const void *)noise,
#endif
#if AGENT_MEMORY
           (const void *)agent_memory,
#endif
           (void *)chosen, (void *)scores
#if AGENT_MEMORY
           , (void *)memory
#endif
    );
    if (!agent_finite(scores, AGENT_SCORES)) {
        return agent_fallback(action, AGENT_NOT_FINITE);
    }
#if AGENT_MASK
    static const int shift[AGENT_ACTION] = AGENT_SHIFT;

    for (int i = 0; i < AGENT_ACTION; ++i) {
        if (!mask[chosen[i] + shift[i]]) {
            return agent_fallback(action, AGENT_NOTHING_LEGAL);
        }
    }
#else
    (void)mask;
#endif
#if AGENT_MEMORY
    if (!agent_finite(memory, AGENT_MEMORY)) {
        return agent_fallback(action, AGENT_NOT_FINITE);
    }
    for (int i = 0; i < AGENT_MEMORY; ++i) {
        agent_memory[i] = memory[i];
    }
#endif
    for (int i = 0; i < AGENT_ACTION; ++i) {
        action[i] = (agent_action)chosen[i];
    }
    return AGENT_OK;
}
