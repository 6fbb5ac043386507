import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.introspect.Annotated;
import com.fasterxml.jackson.databind.introspect.JacksonAnnotationIntrospector;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.strimzi.api.kafka.model.kafka.Kafka;
import io.strimzi.api.kafka.model.nodepool.KafkaNodePool;
import io.strimzi.api.kafka.model.topic.KafkaTopic;
import io.strimzi.api.kafka.model.user.KafkaUser;
import java.io.File;
import java.util.Map;

/**
 * Holds Strimzi's kinds against Strimzi's own classes. They keep a field that they don't know in a bag, and make nothing
 * of a value that they don't know; so an object is read, written again, and compared.
 *
 * <p>Strimzi.java OBJECTS.json prints a line for each complaint: the object's number, a tab, what is wrong.
 */
public class Strimzi {
    private static final Map<String, Class<?>> KINDS =
            Map.of("Kafka", Kafka.class, "KafkaNodePool", KafkaNodePool.class, "KafkaTopic", KafkaTopic.class, "KafkaUser", KafkaUser.class);

    public static void main(String[] args) throws Exception {
        // The bags stay shut: what is not known is an error.
        ObjectMapper mapper = new ObjectMapper()
                .enable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
                .setAnnotationIntrospector(new JacksonAnnotationIntrospector() {
                    @Override
                    public Boolean hasAnySetter(Annotated member) {
                        return false;
                    }
                });
        JsonNode objects = mapper.readTree(new File(args[0]));
        for (int number = 0; number < objects.size(); number++) {
            JsonNode object = objects.get(number);
            Class<?> kind = KINDS.get(object.path("kind").asText());
            String version = object.path("apiVersion").asText();
            if (kind == null || !version.equals("kafka.strimzi.io/v1")) {
                complain(number, "nobody here knows the kind " + version + " " + object.path("kind").asText());
                continue;
            }
            try {
                ObjectNode understood = mapper.valueToTree(mapper.treeToValue(object, kind));
                // Written in the version that the class prefers.
                compare(number, "", object, understood.set("apiVersion", object.get("apiVersion")));
            } catch (JsonProcessingException error) {
                complain(number, error.getOriginalMessage());
            }
        }
    }

    /** Everything that was said must have been understood; what is added is a default. */
    private static void compare(int number, String path, JsonNode said, JsonNode understood) {
        if (said.isObject()) {
            said.fieldNames().forEachRemaining(name -> compare(number, path + "/" + name, said.get(name), understood.path(name)));
        } else if (said.isArray() && understood.size() == said.size()) {
            for (int index = 0; index < said.size(); index++) {
                compare(number, path + "/" + index, said.get(index), understood.get(index));
            }
        } else if (!said.asText().equals(understood.asText()) || understood.isMissingNode()) {
            complain(number, path + " has a value that Strimzi does not know: " + said);
        }
    }

    private static void complain(int number, String what) {
        System.out.println(number + "\t" + what.replace('\n', ' '));
    }
}
