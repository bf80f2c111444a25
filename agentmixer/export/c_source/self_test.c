
int main(void)
{
    int equal = 0;

    for (int t = 0; t < STEPS; ++t) {
        agent_action action[AGENT_ACTION];
        bool same;

        if (golden_reset[t][0]) {
            agent_reset();
        }
        same = agent_act(golden_obs[t],
#if AGENT_MASK
                         golden_mask[t],
#else
                         NULL,
#endif
#if AGENT_NOISE
                         golden_noise[t],
#endif
                         action) == AGENT_OK;
        for (int i = 0; i < AGENT_ACTION; ++i) {
#ifdef REAL_VALUED
            same = same && fabsf(action[i] - golden_action[t][i]) <= golden_tolerance[t][i];
#else
            same = same && action[i] == golden_action[t][i];
#endif
        }
        equal += same || golden_tie[t][0];
    }
    printf("agent %s: %d of %d golden actions equal\n", AGENT_NAME, equal, STEPS);
    return equal == STEPS ? 0 : 1;
}
